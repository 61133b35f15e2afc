// Work: what a client posted, until its completion is on its way. Piece: what is carried out at a time, which is all of
// a work, or up to a mebibyte of a long read or write.

#ifndef STAGEFS_FS_DSA_WORK_H_
#define STAGEFS_FS_DSA_WORK_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/types/span.h"
#include "core/engine.h"
#include "fs/dsa/data_path.h"
#include "fs/dsa/fabric.h"
#include "fs/dsa/protocol.h"
#include "fs/dsa/transfer_buffers.h"
#include "fs/volume/volume.h"

namespace stagefs::dsa {

struct Work {
  WorkEntry entry = {};
  std::array<std::byte, kMaxInlineBytes> inline_data;  // of a small write, from the client; of a small read, for it
  std::shared_ptr<OpenFile> file;
  std::shared_ptr<Memory> memory;

  // --- How far it is ---
  uint64_t split_bytes = 0;  // of entry.length, given to pieces
  bool split = false;        // all of it
  uint32_t pieces = 0;       // not over
  uint64_t epoch = 0;        // which fence it is behind

  // --- What came of it ---
  int status = 0;
  uint64_t read_end = 0;  // reads: where the file ended, from entry.offset; entry.length if it did not
  core::Lsn lsn = 0;      // the highest of its changes
  uint64_t value = 0;

  Opcode opcode() const { return static_cast<Opcode>(entry.opcode); }
  bool Has(uint8_t flag) const { return (entry.flags & flag) != 0; }
  bool IsGroupOperation() const {
    return opcode() == Opcode::kBegin || opcode() == Opcode::kCommit || opcode() == Opcode::kAbort;
  }
  bool IsChange() const {
    return opcode() == Opcode::kWrite || opcode() == Opcode::kCompareSwap || opcode() == Opcode::kFetchAdd ||
           opcode() == Opcode::kCommit;
  }
};

// The writes of a group, until it is committed, and accepted.
struct Group {
  std::vector<volume::ContentChange> parts;  // their bytes lie in `buffers`
  std::vector<TransferBuffers::Buffer> buffers;
  std::vector<std::shared_ptr<OpenFile>> files;
  uint64_t room = 0;        // in the last of the buffers: small parts share one
  uint64_t bytes = 0;       // written
  uint64_t held_bytes = 0;  // with what each part costs besides; counted with the client's
  int status = 0;           // why it cannot be committed any more
};

// Bytes of a file that a change has touched.
struct TouchedRange {
  volume::Ino ino = 0;
  uint64_t begin = 0, end = 0;
};

class QueueServer;

struct Piece {
  enum class State : uint8_t {
    kFetching,  // its bytes are not there yet
    kReady,     // waits for its turn
    kStarted,   // the volume has it
    kDelivering // read; the bytes go to the client
  };

  QueueServer* queue = nullptr;
  Work* work = nullptr;
  State state = State::kReady;
  bool in_group = false;
  uint64_t offset = 0, length = 0;  // in the file
  uint64_t remote_address = 0;      // of its bytes at the client

  // --- Its bytes ---
  TransferBuffers::Buffer buffer;  // all of a write; of one that is staged, head and tail; all of a read, from a block on
  std::shared_ptr<core::StagedData> staged;  // a write's whole blocks
  uint64_t head_bytes = 0, tail_bytes = 0;   // before and behind them
  std::unique_ptr<Group> group;              // of a commit
  std::vector<TouchedRange> touched;         // others still have to hear of it

  // Whether it has to wait until the changes before it were accepted.
  bool ordered() const { return !work->Has(kUnordered) || in_group || work->IsGroupOperation(); }

  // --- Remote reads or writes: head, whole blocks, tail ---
  struct Move : Transfer {
    Piece* piece = nullptr;
    std::byte* local = nullptr;
    uint64_t bytes = 0, remote_address = 0;
  };
  std::array<Move, 3> moves;
  uint32_t move_count = 0, moves_started = 0, moves_over = 0;
  int move_status = 0;
};

}  // namespace stagefs::dsa

#endif  // STAGEFS_FS_DSA_WORK_H_
