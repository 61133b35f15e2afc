// Fuzzes blocks of the checksum table. An input says which block of the table, whether its checksums are made right
// before it is damaged or after, and how it is damaged.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/checksum.h"
#include "core/format.h"
#include "sal/check.h"
#include "tests/fuzz/input.h"

namespace stagefs::core {
namespace {

constexpr uint64_t kSalt = 0x5a17;

TableSector SectorOf(const std::vector<std::byte>& block, uint64_t i) {
  return Load<TableSector>(block.data() + i * kTableSectorBytes);
}

bool AllPoisoned(const TableSector& sector) {
  return std::all_of(std::begin(sector.entries), std::end(sector.entries), [](uint64_t e) { return e == kPoisoned; });
}

void Fuzz(fuzz::Input input) {
  const uint8_t how = input.Byte();
  const uint64_t index = input.Size();
  std::vector<std::byte> block(kBlockBytes);
  // So that some sectors are used and some are not.
  for (uint64_t i = 0; i < kSectorsPerTableBlock; ++i) {
    if ((how >> i & 1) != 0) Store(block.data() + i * kTableSectorBytes + 16, Hash(&i, sizeof(i), kSalt));
  }
  SealTableBlock(block.data(), index, kSalt);
  STAGEFS_CHECK(CheckTableBlock(block.data(), index, kSalt) == 0);
  const bool seal = input.Bool();
  while (!input.empty()) fuzz::Patch(input, absl::MakeSpan(block));
  if (seal) SealTableBlock(block.data(), index, kSalt);

  const std::vector<std::byte> before = block;
  const int bad = CheckTableBlock(block.data(), index, kSalt);
  STAGEFS_CHECK(!seal || bad == 0);
  int changed = 0, poisoned = 0;
  for (uint64_t i = 0; i < kSectorsPerTableBlock; ++i) {
    const TableSector sector = SectorOf(block, i);
    poisoned += AllPoisoned(sector) ? 1 : 0;
    changed += std::equal(std::begin(sector.entries), std::end(sector.entries), SectorOf(before, i).entries) ? 0 : 1;
  }
  STAGEFS_CHECK(changed <= bad && bad <= poisoned);
  SealTableBlock(block.data(), index, kSalt);
  STAGEFS_CHECK(CheckTableBlock(block.data(), index, kSalt) == 0);
}

}  // namespace
}  // namespace stagefs::core

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  stagefs::core::Fuzz({data, size});
  return 0;
}
