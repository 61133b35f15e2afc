// RecordMarks: lets other processes put marks into a record, through a unix datagram socket beside its file.
//
// A datagram is the text of a mark. The answer is the mark's position in the record, in decimal: whoever got the answer
// knows that all that was completed before it asked stands before that position, and all that begins later behind it.
// An empty datagram is answered without a mark being made: it asks whether anybody is there.
//
// Thread-safe: one thread of its own serves the socket.

#ifndef STAGEFS_SAL_RECORD_MARKS_H_
#define STAGEFS_SAL_RECORD_MARKS_H_

#include <memory>
#include <string>
#include <thread>

#include "absl/status/statusor.h"
#include "sal/record_log.h"

namespace stagefs::sal {

class RecordMarks {
 public:
  // Binds `path`, on which every user may send. A socket that an earlier process left there is replaced. `log` must
  // outlive this. Errors: InvalidArgument (the path is too long for a socket), Internal.
  static absl::StatusOr<std::unique_ptr<RecordMarks>> Listen(const std::string& path, RecordLog& log);
  // Removes the socket. Marks that were answered are in the log.
  ~RecordMarks();
  RecordMarks(const RecordMarks&) = delete;
  RecordMarks& operator=(const RecordMarks&) = delete;

 private:
  RecordMarks(const std::string& path, int socket, RecordLog& log);
  void Serve();

  const std::string path_;
  const int socket_;
  RecordLog& log_;
  std::thread server_;  // runs Serve()
};

}  // namespace stagefs::sal

#endif  // STAGEFS_SAL_RECORD_MARKS_H_
