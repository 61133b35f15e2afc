#include "fs/dsa/examples/hash_table.h"

#include <errno.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

namespace stagefs::examples {
namespace {

constexpr uint64_t kMagic = 0x31454c4241544853;  // "SHTABLE1"
constexpr int kBitsPerNode = 4;
constexpr uint64_t kIsNode = 1;  // in a slot, whose places are multiples of 16
constexpr uint64_t kLeastBytes = 16;

// FNV-1a, its bits mixed so that the upper ones are worth as much.
uint64_t HashOf(std::string_view key) {
  uint64_t hash = 0xcbf29ce484222325;
  for (const char c : key) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  hash = (hash ^ (hash >> 32)) * 0x9e3779b97f4a7c15;
  return hash ^ (hash >> 29);
}

size_t IndexOf(uint64_t hash, int depth) { return hash >> (depth * kBitsPerNode) & ((1 << kBitsPerNode) - 1); }

}  // namespace

struct HashTable::Node {
  uint64_t slots[1 << kBitsPerNode];
};

struct HashTable::Header {
  uint64_t magic;
  uint64_t size;   // entries
  uint64_t end;    // what lies behind was never used
  uint64_t reserved;
  uint64_t free[64];  // by the logarithm of the size: a list of places, each with the next one in its first 8 bytes
  Node root;
};

// Key and value follow.
struct HashTable::Entry {
  uint64_t next;  // with the same hash
  uint64_t hash;
  uint64_t key_size, value_size;

  std::string_view key() const { return {reinterpret_cast<const char*>(this + 1), key_size}; }
  std::string_view value() const { return {key().data() + key_size, value_size}; }
  uint64_t size_bytes() const { return sizeof(Entry) + key_size + value_size; }
};

HashTable::HashTable(std::span<std::byte> memory, Persist persist) : memory_(memory), persist_(std::move(persist)) {}

bool HashTable::valid() const {
  return memory_.size() >= sizeof(Header) && (header().magic == kMagic || header().magic == 0) &&
         header().end <= memory_.size();
}

uint64_t HashTable::size() const { return header().size; }

void HashTable::Format() {
  header().magic = kMagic;
  header().end = (sizeof(Header) + kLeastBytes - 1) / kLeastBytes * kLeastBytes;
}

uint64_t HashTable::Allocate(uint64_t size_bytes) {
  const uint64_t rounded = std::bit_ceil(std::max(size_bytes, kLeastBytes));
  uint64_t& free = header().free[std::countr_zero(rounded)];
  uint64_t place = free;
  if (place != 0) {
    free = *At<uint64_t>(place);
  } else {
    if (rounded > memory_.size() - header().end) return 0;
    place = header().end;
    header().end += rounded;
  }
  std::memset(At<std::byte>(place), 0, size_bytes);
  return place;
}

void HashTable::Free(uint64_t place, uint64_t size_bytes) {
  uint64_t& free = header().free[std::countr_zero(std::bit_ceil(std::max(size_bytes, kLeastBytes)))];
  *At<uint64_t>(place) = std::exchange(free, place);
}

uint64_t* HashTable::FindSlot(uint64_t hash, int* depth) const {
  *depth = 0;
  uint64_t* slot = &header().root.slots[IndexOf(hash, 0)];
  while ((*slot & kIsNode) != 0) slot = &At<Node>(*slot & ~kIsNode)->slots[IndexOf(hash, ++*depth)];
  return slot;
}

uint64_t* HashTable::FindLink(uint64_t* slot, uint64_t hash, std::string_view key) const {
  uint64_t* link = slot;
  while (*link != 0) {
    Entry& entry = *At<Entry>(*link);
    if (entry.hash == hash && entry.key() == key) break;
    link = &entry.next;
  }
  return link;
}

int HashTable::Place(uint64_t* slot, int depth, uint64_t entry) {
  Entry& added = *At<Entry>(entry);
  while (*slot != 0 && At<Entry>(*slot)->hash != added.hash) {
    // Another hash: both go a level down, until their bits differ, which they do before the 64 bits are used up.
    const uint64_t other = *slot;
    const uint64_t node = Allocate(sizeof(Node));
    if (node == 0) return -ENOSPC;
    ++depth;
    At<Node>(node)->slots[IndexOf(At<Entry>(other)->hash, depth)] = other;
    *slot = node | kIsNode;
    slot = &At<Node>(node)->slots[IndexOf(added.hash, depth)];
  }
  added.next = std::exchange(*slot, entry);
  return 0;
}

std::optional<std::string_view> HashTable::Get(std::string_view key) const {
  const uint64_t hash = HashOf(key);
  int depth = 0;
  const uint64_t found = *FindLink(FindSlot(hash, &depth), hash, key);
  if (found == 0) return std::nullopt;
  return At<Entry>(found)->value();
}

int HashTable::Put(std::string_view key, std::string_view value) {
  if (header().magic == 0) Format();
  const uint64_t hash = HashOf(key);
  const Entry entry = {0, hash, key.size(), value.size()};
  const uint64_t place = Allocate(entry.size_bytes());
  if (place == 0) return -ENOSPC;
  std::memcpy(At<Entry>(place), &entry, sizeof(entry));
  std::copy(key.begin(), key.end(), At<char>(place + sizeof(Entry)));
  std::copy(value.begin(), value.end(), At<char>(place + sizeof(Entry) + key.size()));

  int depth = 0;
  uint64_t* const slot = FindSlot(hash, &depth);
  uint64_t* const link = FindLink(slot, hash, key);
  if (*link != 0) {
    const uint64_t replaced = std::exchange(*link, place);
    At<Entry>(place)->next = At<Entry>(replaced)->next;
    Free(replaced, At<Entry>(replaced)->size_bytes());
  } else {
    if (const int status = Place(slot, depth, place); status < 0) return status;
    ++header().size;
  }
  return persist_();
}

int HashTable::Delete(std::string_view key) {
  const uint64_t hash = HashOf(key);
  int depth = 0;
  uint64_t* const link = FindLink(FindSlot(hash, &depth), hash, key);
  if (*link == 0) return -ENOENT;
  const uint64_t removed = *link;
  *link = At<Entry>(removed)->next;
  Free(removed, At<Entry>(removed)->size_bytes());
  --header().size;
  return persist_();
}

void HashTable::Visit(uint64_t slot,
                      const std::function<void(std::string_view, std::string_view)>& visit) const {
  if ((slot & kIsNode) != 0) {
    for (const uint64_t below : At<Node>(slot & ~kIsNode)->slots) Visit(below, visit);
    return;
  }
  for (; slot != 0; slot = At<Entry>(slot)->next) visit(At<Entry>(slot)->key(), At<Entry>(slot)->value());
}

void HashTable::ForEach(const std::function<void(std::string_view key, std::string_view value)>& visit) const {
  for (const uint64_t slot : header().root.slots) Visit(slot, visit);
}

}  // namespace stagefs::examples
