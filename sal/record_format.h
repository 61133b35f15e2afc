// The format of a record: what a RecordStore writes, and a replay reads.
//
// A file header, then events, one after the other. The n-th event (from 1) ends position n: "cut at position n" means
// that the power failed when exactly the first n events had happened. An event is valid if and only if it and its data
// lie whole within the file; a file that ends inside an event (its writer was killed) ends before that event.
//
// The order of events is the order in which the store's user could know of them: a submission is recorded before the
// store underneath hears of the request, a completion after that store has completed it and before the user hears of
// it. So a write counts as completed before a flush was submitted exactly if its completion stands before the flush.
//
// Integers are little-endian. Reads are not recorded.

#ifndef STAGEFS_SAL_RECORD_FORMAT_H_
#define STAGEFS_SAL_RECORD_FORMAT_H_

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace stagefs::sal {

inline constexpr uint64_t kRecordMagic = 0x31'43'45'52'53'46'47'53;  // "SGFSREC1"

struct RecordFileHeader {
  uint64_t magic;                // kRecordMagic: this is a record, of this format
  uint64_t size_bytes;           // of the store: every range lies within
  uint32_t atomic_write_bytes;   // how a write may tear
  uint32_t reserved;             // zero
};
static_assert(sizeof(RecordFileHeader) == 24);
static_assert(std::has_unique_object_representations_v<RecordFileHeader>);

enum class RecordEventKind : uint8_t {
  kWrite = 1,      // submitted; data: length_bytes bytes, unless kRecordZeros
  kZero = 2,       // submitted; no data
  kDiscard = 3,    // submitted; no data
  kFlush = 4,      // submitted; no range
  kCompleted = 5,  // request_number has completed with OK
  kFailed = 6,     // request_number has completed with an error: nothing is known about what it did
  kMark = 7,       // data: length_bytes bytes of text, from outside
};

inline constexpr uint8_t kRecordFua = 1;    // kWrite: durable when it completes
inline constexpr uint8_t kRecordZeros = 2;  // kWrite: all bytes are zeros, and no data follow

struct RecordEventHeader {
  uint64_t request_number;  // from 1, in the order of submission; kMark: 0
  uint64_t offset_bytes;    // kWrite, kZero, kDiscard; else 0
  uint64_t length_bytes;    // kWrite, kZero, kDiscard, kMark; else 0
  uint8_t kind;             // RecordEventKind
  uint8_t flags;            // kRecordFua, kRecordZeros
  uint8_t reserved[6];      // zero
};
static_assert(sizeof(RecordEventHeader) == 32);
static_assert(offsetof(RecordEventHeader, kind) == 24);
static_assert(std::has_unique_object_representations_v<RecordEventHeader>);

}  // namespace stagefs::sal

#endif  // STAGEFS_SAL_RECORD_FORMAT_H_
