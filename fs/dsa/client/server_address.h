// ServerAddress: what dsa_connect() is given, and the socket that it leads to. Part of libstagefs.
//
//   a Unix socket                         that socket
//   another existing path, or none        PATH.dsa; for a block device /run/stagefs/NAME.dsa
//   HOST:PORT, [HOST]:PORT                TCP. A name with a slash, and one that exists, is a path

#ifndef STAGEFS_FS_DSA_CLIENT_SERVER_ADDRESS_H_
#define STAGEFS_FS_DSA_CLIENT_SERVER_ADDRESS_H_

#include <cstdint>
#include <string>

#include "sal/owned_fd.h"

namespace stagefs::dsa {

struct ServerAddress {
  bool is_remote = false;
  std::string path;        // of the Unix socket
  std::string host, port;  // if it is remote
};

ServerAddress ParseServerAddress(const std::string& address);

// Connects a stream socket: 0, or a negative errno, -ETIMEDOUT among them. A name's resolution takes the time it takes.
int ConnectSocket(const ServerAddress& address, uint32_t timeout_ms, OwnedFd* socket, std::string* error);

// The IP address that the own end of a TCP connection has; empty if it has none.
std::string LocalAddress(int socket);

}  // namespace stagefs::dsa

#endif  // STAGEFS_FS_DSA_CLIENT_SERVER_ADDRESS_H_
