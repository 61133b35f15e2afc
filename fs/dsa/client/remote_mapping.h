// What stands behind the C interface's dsa_mapping: a Mapping whose pages come from the server, and whose changes go
// there as a group. Part of libstagefs.

#ifndef STAGEFS_FS_DSA_CLIENT_REMOTE_MAPPING_H_
#define STAGEFS_FS_DSA_CLIENT_REMOTE_MAPPING_H_

#include <cstdint>
#include <memory>
#include <string>

#include "fs/dsa/client/mapping.h"
#include "fs/dsa/client/memory.h"

struct dsa_mapping final : private stagefs::dsa::MappingBackend {
 public:
  // As dsa_map(). The connection and `file` outlive it.
  static int Create(stagefs::dsa::Connection& connection, dsa_file* file, uint64_t offset, uint64_t length,
                    std::unique_ptr<dsa_mapping>* mapping, std::string* error);
  // The program's memory goes first, then the server hears of it.
  ~dsa_mapping() override;
  dsa_mapping(const dsa_mapping&) = delete;
  dsa_mapping& operator=(const dsa_mapping&) = delete;

  stagefs::dsa::Connection& connection() { return connection_; }
  stagefs::dsa::Mapping& pages() { return *pages_; }

 private:
  dsa_mapping(stagefs::dsa::Connection& connection, dsa_file* file);
  int Populate(uint64_t offset, uint64_t length) override;
  int Persist(const std::vector<stagefs::dsa::ChangedBytes>& pieces, bool durable, uint64_t* lsn) override;

  stagefs::dsa::Connection& connection_;
  dsa_file* const file_;
  bool is_mapped_ = false;
  uint32_t handle_ = 0;
  std::unique_ptr<stagefs::dsa::Mapping> pages_;
};

#endif  // STAGEFS_FS_DSA_CLIENT_REMOTE_MAPPING_H_
