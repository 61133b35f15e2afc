#include "tests/replay/image_file.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <vector>

#include "absl/strings/str_cat.h"
#include "sal/status_macros.h"

namespace stagefs::replay {

using sal::SimulatedImage;

namespace {

constexpr uint64_t kPieceBytes = 1 << 20;
constexpr size_t kPiecePages = kPieceBytes / SimulatedImage::kPageBytes;

class File {
 public:
  File(const std::string& path, int flags) : path_(path), descriptor_(open(path.c_str(), flags | O_CLOEXEC, 0666)) {}
  ~File() {
    if (descriptor_ >= 0) close(descriptor_);
  }
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  int descriptor() const { return descriptor_; }
  absl::Status Error() const { return absl::InternalError(absl::StrCat(path_, ": ", strerror(errno))); }

 private:
  const std::string path_;
  const int descriptor_;
};

absl::Status LoadRange(const File& file, off_t from, off_t to, SimulatedImage& image) {
  std::vector<std::byte> piece(kPieceBytes);
  while (from < to) {
    const ssize_t count = pread(file.descriptor(), piece.data(), std::min<off_t>(to - from, kPieceBytes), from);
    if (count < 0) return file.Error();
    if (count == 0) return absl::OkStatus();
    image.Write(from, count, piece.data());
    from += count;
  }
  return absl::OkStatus();
}

// Neighbouring pages, gathered so that they are written together.
struct Run {
  uint64_t offset_bytes = 0;
  std::vector<iovec> pages;

  uint64_t end_bytes() const { return offset_bytes + pages.size() * SimulatedImage::kPageBytes; }
  absl::Status WriteTo(const File& file) {
    if (pages.empty()) return absl::OkStatus();
    const ssize_t length = pages.size() * SimulatedImage::kPageBytes;
    const ssize_t count = pwritev(file.descriptor(), pages.data(), pages.size(), offset_bytes);
    pages.clear();
    return count == length ? absl::OkStatus() : file.Error();
  }
};

}  // namespace

absl::StatusOr<SimulatedImage> LoadImage(const std::string& path) {
  const File file(path, O_RDONLY);
  if (file.descriptor() < 0) return absl::NotFoundError(absl::StrCat(path, ": ", strerror(errno)));
  SimulatedImage image;
  off_t hole = 0;
  while (true) {
    const off_t data = lseek(file.descriptor(), hole, SEEK_DATA);
    if (data < 0 && errno == ENXIO) return image;
    if (data < 0) return file.Error();
    hole = lseek(file.descriptor(), data, SEEK_HOLE);
    if (hole < 0) return file.Error();
    RETURN_IF_ERROR(LoadRange(file, data, hole, image));
  }
}

absl::Status SaveImage(const SimulatedImage& image, uint64_t size_bytes, const std::string& path) {
  (void)unlink(path.c_str());
  const File file(path, O_WRONLY | O_CREAT | O_EXCL);
  if (file.descriptor() < 0 || ftruncate(file.descriptor(), size_bytes) != 0) return file.Error();
  absl::Status status;
  Run run;
  image.ForEachPage([&](uint64_t number, const std::byte* bytes) {
    const uint64_t offset = number * SimulatedImage::kPageBytes;
    if (!run.pages.empty() && (offset != run.end_bytes() || run.pages.size() == kPiecePages)) {
      if (const absl::Status written = run.WriteTo(file); !written.ok()) status = written;
    }
    if (run.pages.empty()) run.offset_bytes = offset;
    run.pages.push_back({const_cast<std::byte*>(bytes), SimulatedImage::kPageBytes});
  });
  if (const absl::Status written = run.WriteTo(file); !written.ok()) status = written;
  return status;
}

}  // namespace stagefs::replay
