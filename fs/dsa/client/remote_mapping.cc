#include "fs/dsa/client/remote_mapping.h"

#include <errno.h>
#include <string.h>

#include <span>
#include <vector>

#include "fs/dsa/client/connection.h"
#include "fs/dsa/client/control_client.h"
#include "fs/dsa/client/group_writer.h"
#include "fs/dsa/protocol.h"

using stagefs::dsa::ChangedBytes;
using stagefs::dsa::Connection;
using stagefs::dsa::ControlReply;
using stagefs::dsa::ControlType;
using stagefs::dsa::GroupWriter;
using stagefs::dsa::HandleReply;
using stagefs::dsa::HandleRequest;
using stagefs::dsa::MappedRanges;
using stagefs::dsa::Mapping;
using stagefs::dsa::RangeRequest;

dsa_mapping::dsa_mapping(Connection& connection, dsa_file* file) : connection_(connection), file_(file) {
  ++file_->mappings;
}

int dsa_mapping::Create(Connection& connection, dsa_file* file, uint64_t offset, uint64_t length,
                        std::unique_ptr<dsa_mapping>* mapping, std::string* error) {
  if (!connection.can_map()) {
    *error = "the server is not on this machine, or maps no files";
    return -EOPNOTSUPP;
  }
  if (length == 0 || offset % Mapping::kPageBytes != 0 || length % Mapping::kPageBytes != 0) {
    *error = "the range is not one of whole pages";
    return -EINVAL;
  }
  std::unique_ptr<dsa_mapping> made(new dsa_mapping(connection, file));
  ControlReply reply;
  const RangeRequest request = {file->handle, 0, offset, length};
  if (const int code = connection.control().Ask(ControlType::kMap, request, &reply, error); code != 0) return code;
  HandleReply granted;
  if (!DecodeReply(reply, &granted) || reply.descriptors.size() != 1) {
    return connection.control().Nonsense("a mapping", error);
  }
  made->is_mapped_ = true;
  made->handle_ = granted.handle;
  const int code = Mapping::Create(reply.descriptors[0].get(), offset, length, *made, &made->pages_);
  if (code != 0) {
    *error = std::string("mapping: ") + strerror(-code);
    return code;
  }
  MappedRanges::OfProcess().Add(made->pages_->address(), length);
  *mapping = std::move(made);
  return 0;
}

dsa_mapping::~dsa_mapping() {
  // Before its addresses can be somebody else's, whom it would keep from registering them.
  if (pages_ != nullptr) MappedRanges::OfProcess().Remove(pages_->address());
  pages_.reset();
  if (is_mapped_) {
    ControlReply reply;
    std::string ignored;
    (void)connection_.control().Ask(ControlType::kUnmap, HandleRequest{handle_, 0}, &reply, &ignored);
  }
  --file_->mappings;
}

int dsa_mapping::Populate(uint64_t offset, uint64_t length) {
  ControlReply reply;
  std::string ignored;
  const RangeRequest request = {handle_, 0, offset, length};
  return connection_.control().Ask(ControlType::kPopulate, request, &reply, &ignored);
}

int dsa_mapping::Persist(const std::vector<ChangedBytes>& pieces, bool durable, uint64_t* lsn) {
  std::vector<GroupWriter::Part> parts;
  parts.reserve(pieces.size());
  for (const ChangedBytes& piece : pieces) {
    parts.push_back({piece.offset, {static_cast<const std::byte*>(piece.bytes), piece.length}});
  }
  std::string ignored;
  return connection_.group_writer().Write(file_, parts, durable, lsn, &ignored);
}
