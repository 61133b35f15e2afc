// Makes disk images as a power cut would leave them, from a record (`record:FILE,URL`) and the image it began with.
//
//   replay list RECORD
//       "events N", and a line "mark POSITION TEXT" for each mark.
//   replay cut RECORD BASE [--ignore-flushes]
//       Reads lines "POSITION SEED FATE IMAGE", of ascending positions, and writes IMAGE as the disk is when power
//       fails after POSITION events. FATE says what becomes of the writes at risk: random (by SEED), keep or drop.
//       Answers each with "cut POSITION kept N dropped N torn N". With --ignore-flushes nothing ever becomes durable.
//   replay mark SOCKET TEXT
//       Puts a mark into the record that is being written, and prints its position.

#include <cstdio>
#include <iostream>
#include <map>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "sal/status_macros.h"
#include "tests/replay/image_file.h"
#include "tests/replay/mark_client.h"
#include "tests/replay/recorded_disk.h"

namespace stagefs::replay {
namespace {

absl::Status List(const std::string& record) {
  ASSIGN_OR_RETURN(const std::unique_ptr<RecordReader> reader, RecordReader::Open(record));
  RecordEvent event;
  std::string marks;
  while (true) {
    ASSIGN_OR_RETURN(const bool found, reader->Next(&event));
    if (!found) break;
    if (event.kind != sal::RecordEventKind::kMark) continue;
    const absl::string_view text(reinterpret_cast<const char*>(event.data.data()), event.data.size());
    absl::StrAppend(&marks, "mark ", reader->position(), " ", text, "\n");
  }
  std::cout << "events " << reader->position() << "\n" << marks;
  return absl::OkStatus();
}

absl::Status CutOne(RecordedDisk& disk, uint64_t size_bytes, const std::string& line) {
  static const std::map<std::string, RecordedDisk::Fate> kFates = {{"random", RecordedDisk::Fate::kRandom},
                                                                   {"keep", RecordedDisk::Fate::kKeep},
                                                                   {"drop", RecordedDisk::Fate::kDrop}};
  std::istringstream words(line);
  uint64_t position = 0, seed = 0;
  std::string fate, image;
  if (!(words >> position >> seed >> fate >> image) || !kFates.contains(fate)) {
    return absl::InvalidArgumentError(absl::StrCat("\"", line, "\": write POSITION SEED random|keep|drop IMAGE"));
  }
  RETURN_IF_ERROR(disk.AdvanceTo(position));
  RecordedDisk::CutReport report;
  RETURN_IF_ERROR(SaveImage(disk.Cut(seed, kFates.at(fate), &report), size_bytes, image));
  std::cout << "cut " << position << " kept " << report.kept << " dropped " << report.dropped << " torn " << report.torn
            << std::endl;
  return absl::OkStatus();
}

absl::Status Cut(const std::string& record, const std::string& base, bool ignore_flushes) {
  ASSIGN_OR_RETURN(const std::unique_ptr<RecordReader> reader, RecordReader::Open(record));
  ASSIGN_OR_RETURN(sal::SimulatedImage image, LoadImage(base));
  RecordedDisk disk(*reader, std::move(image), {.ignore_flushes = ignore_flushes});
  std::string line;
  while (std::getline(std::cin, line)) RETURN_IF_ERROR(CutOne(disk, reader->size_bytes(), line));
  return absl::OkStatus();
}

absl::Status Mark(const std::string& socket, const std::string& text) {
  ASSIGN_OR_RETURN(const std::unique_ptr<MarkClient> client, MarkClient::Connect(socket));
  ASSIGN_OR_RETURN(const uint64_t position, client->Mark(text));
  std::cout << position << "\n";
  return absl::OkStatus();
}

absl::Status Run(const std::vector<std::string>& arguments) {
  const size_t count = arguments.size();
  if (count == 2 && arguments[0] == "list") return List(arguments[1]);
  if (count == 3 && arguments[0] == "mark") return Mark(arguments[1], arguments[2]);
  if (count == 3 && arguments[0] == "cut") return Cut(arguments[1], arguments[2], false);
  if (count == 4 && arguments[0] == "cut" && arguments[3] == "--ignore-flushes") {
    return Cut(arguments[1], arguments[2], true);
  }
  return absl::InvalidArgumentError(
      "usage: replay list RECORD | replay cut RECORD BASE [--ignore-flushes] | replay mark SOCKET TEXT");
}

}  // namespace
}  // namespace stagefs::replay

int main(int argc, char** argv) {
  const absl::Status status = stagefs::replay::Run(std::vector<std::string>(argv + 1, argv + argc));
  if (status.ok()) return 0;
  std::fprintf(stderr, "replay: %s\n", std::string(status.message()).c_str());
  return 1;
}
