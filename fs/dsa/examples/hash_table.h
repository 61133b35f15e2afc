// HashTable: a persistent hash table that lives in memory whose changed bytes somebody makes durable as one change,
// such as a file mapped by dsa_map().
//
// Each Put() and Delete() stores what it has to and then persists once. Since a persist is all or nothing, whatever
// happens in between leaves the table as it was before or as it is after: there is no log, no copy and no order of
// stores to think of.
//
// It is a trie over the bits of a hash: a node has 16 slots, each of them empty, an entry, or a node for the next four
// bits. It grows a node at a time; nothing is ever rehashed. All places are offsets from the start of the memory, 0 is
// nowhere.
//
// Not thread-safe, and one writer at a time. Everything is in the byte order of the machine.

#ifndef STAGEFS_FS_DSA_EXAMPLES_HASH_TABLE_H_
#define STAGEFS_FS_DSA_EXAMPLES_HASH_TABLE_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string_view>

namespace stagefs::examples {

class HashTable {
 public:
  // Makes every changed byte of the memory one durable change: 0, or a negative errno and nothing has happened.
  using Persist = std::function<int()>;

  // `memory` holds a table, or zeros, which are made an empty one by the first change. It must outlive this object.
  HashTable(std::span<std::byte> memory, Persist persist);

  // False: the memory holds something else; nothing may be called then.
  bool valid() const;
  uint64_t size() const;

  // Points into the memory: valid until the next Put() or Delete().
  std::optional<std::string_view> Get(std::string_view key) const;
  // These return 0, or a negative errno; then the memory has bytes that must not be persisted: drop it. -ENOSPC: there
  // is no room in the memory; -ENOENT: there is no such key.
  int Put(std::string_view key, std::string_view value);
  int Delete(std::string_view key);
  // In no particular order.
  void ForEach(const std::function<void(std::string_view key, std::string_view value)>& visit) const;

 private:
  struct Header;
  struct Node;
  struct Entry;

  template <typename T>
  T* At(uint64_t place) const {
    return reinterpret_cast<T*>(memory_.data() + place);
  }
  Header& header() const { return *At<Header>(0); }

  void Format();
  // The slot where an entry of this hash is or belongs, and the depth of its node.
  uint64_t* FindSlot(uint64_t hash, int* depth) const;
  // The pointer that points to the entry of `key`, within its chain; or to nothing, where it ends.
  uint64_t* FindLink(uint64_t* slot, uint64_t hash, std::string_view key) const;
  // Puts `entry` into `slot`, with new nodes as long as another hash is there.
  int Place(uint64_t* slot, int depth, uint64_t entry);
  // Zeroed room of a size that is rounded up to a power of two; 0: there is none.
  uint64_t Allocate(uint64_t size_bytes);
  void Free(uint64_t place, uint64_t size_bytes);
  void Visit(uint64_t slot, const std::function<void(std::string_view, std::string_view)>& visit) const;

  const std::span<std::byte> memory_;
  const Persist persist_;
};

}  // namespace stagefs::examples

#endif  // STAGEFS_FS_DSA_EXAMPLES_HASH_TABLE_H_
