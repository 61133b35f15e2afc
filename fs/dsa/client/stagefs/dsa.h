/* stagefs direct access: reads and writes of a volume's files without the kernel in between.
 *
 *   dsa_connect -> dsa_open -> dsa_register -> dsa_create_queue -> dsa_post ... dsa_poll
 *
 * A program posts work to private queues and polls completions, as with RDMA. The server moves the bytes itself between
 * registered memory and the volume. Order and durability are those of the whole volume: see docs/direct-access.md.
 *
 * Functions return 0 (or a count) and, when they fail, a negative errno; dsa_error() then says more. Those that ask the
 * server something block until it answers: at most as long as dsa_options.timeout_ms, then -ETIMEDOUT.
 *
 * When the server ends or the connection breaks, every call and every piece of work still posted fails with
 * -ECONNRESET, at once. What had completed as durable is on the store. Close everything and connect again.
 *
 * Threads: connections, files and memory may be used by several threads at once; a queue, and a mapping's unmapping, by
 * one at a time. After fork() the child must not use what the parent had. Handles are freed by the call that ends
 * them, in this order: mappings, queues, memory, files, connection. */

#ifndef STAGEFS_DSA_H_
#define STAGEFS_DSA_H_

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <time.h> /* struct timespec: C11, or POSIX */

#ifdef __cplusplus
extern "C" {
#endif

typedef struct dsa_connection dsa_connection;
typedef struct dsa_file dsa_file;
typedef struct dsa_memory dsa_memory;
typedef struct dsa_queue dsa_queue;
typedef struct dsa_mapping dsa_mapping;

/* What the last failed call of this thread ran into, for people. Never NULL; valid until the next call. */
const char *dsa_error(void);

/* --- Connections --- */

struct dsa_options {
  const char *provider;  /* of libfabric: "shm", "tcp", "verbs". NULL: the fastest that the server allows */
  const char *key_file;  /* for a server on another machine: the file with the key (docs/direct-access.md) */
  uint32_t timeout_ms;   /* 0: 10,000 */
  uint32_t spin_us;      /* dsa_wait() polls so long before it sleeps. 0: 20 */
};

/* `address`: the server's Unix socket, or the store beside which it lies ("/srv/image" for "/srv/image.dsa"), or
 * HOST:PORT. `options` may be NULL. -EACCES: the key is wrong; -EPROTONOSUPPORT: the server speaks another version. */
int dsa_connect(const char *address, const struct dsa_options *options, dsa_connection **connection);
/* Ends what is still open on it. NULL is allowed, as in all functions that end something. */
void dsa_disconnect(dsa_connection *connection);
/* The provider in use. Valid as long as the connection. */
const char *dsa_provider(const dsa_connection *connection);

/* --- Files --- */

/* Beside O_RDONLY, O_WRONLY, O_RDWR, O_CREAT, O_EXCL, O_TRUNC. Without it, opening for writing fails with -EBUSY while
 * somebody writes the file through a mount, and keeps others from doing so; with it both may write. */
#define DSA_SHARED 0x40000000

struct dsa_stat {
  uint64_t ino;
  uint64_t size;       /* bytes */
  uint64_t allocated;  /* bytes */
  uint32_t mode;       /* as in struct stat */
  uint32_t nlink, uid, gid;
  struct timespec atime, mtime, ctime;
};

/* `path` begins at the volume's root. Permissions are checked once, here, as open(2) does. A file made by O_CREAT gets
 * `mode` as it is (no umask). -EXDEV: a symbolic link that leads out of the volume. */
int dsa_open(dsa_connection *connection, const char *path, int flags, mode_t mode, dsa_file **file);
int dsa_stat(dsa_file *file, struct dsa_stat *stat);
/* Work posted on the file goes on; its mappings must be gone. */
int dsa_close(dsa_file *file);

/* --- Memory --- */

#define DSA_LOCAL_READ 1  /* the server may read it: source of DSA_WRITE */
#define DSA_LOCAL_WRITE 2 /* the server may write it: target of DSA_READ */

/* Lets work refer to [address, address + length). -EINVAL: it overlaps a mapping of dsa_map(). */
int dsa_register(dsa_connection *connection, void *address, size_t length, int access, dsa_memory **memory);
/* Work still under way in it is finished, or fails with -ECANCELED, before this returns: then the memory is the
 * program's alone again. */
int dsa_deregister(dsa_memory *memory);

/* --- Queues --- */

enum dsa_opcode {
  DSA_READ = 1,         /* file -> memory. Short only at the end of the file */
  DSA_WRITE = 2,        /* memory -> file. Up to 1 MiB is one change; more is several, in order */
  DSA_FLUSH = 3,        /* completes when everything that the volume accepted before is durable */
  DSA_COMPARE_SWAP = 4, /* the 8 bytes at `offset` (a multiple of 8, little-endian) become `operand` if `expected` */
  DSA_FETCH_ADD = 5,    /* `operand` is added to them, modulo 2^64 */
  DSA_BEGIN = 6,        /* the writes from here on are a group: nothing of it is visible before DSA_COMMIT */
  DSA_COMMIT = 7,       /* makes the group one change; at most 16 MiB, else -E2BIG and nothing of it stays */
  DSA_ABORT = 8         /* drops it */
};

enum dsa_flags {
  DSA_SIGNALED = 1,  /* gives a completion. Without it only failure does */
  DSA_DURABLE = 2,   /* of changes: completes when durable. Without it: when staged, which is ordered and visible */
  DSA_UNORDERED = 4, /* may be carried out before what was posted earlier */
  DSA_FENCE = 8      /* begins when all that was posted earlier on this queue has completed: its buffer may be one that
                        an earlier READ fills, if `memory` is given */
};

/* Order on a queue: without DSA_UNORDERED, changes are accepted in the order of their posting, and a READ sees all
 * changes posted before it. A READ may also see changes posted after it; a DSA_FENCE on those prevents that. Queues are
 * independent of each other: what has completed on one comes before what is posted on another from then on. */
struct dsa_work {
  uint64_t user_data; /* comes back in the completion */
  uint32_t opcode;
  uint32_t flags;
  dsa_file *file;     /* of reads, writes and atomics */
  uint64_t offset;    /* in the file */
  void *buffer;       /* of READ and WRITE, within `memory`; the program's again with the completion */
  uint64_t length;    /* 1 byte to 1 GiB */
  dsa_memory *memory; /* NULL: a WRITE of at most DSA_MAX_INLINE bytes, copied by dsa_post() */
  uint64_t operand, expected;
};

#define DSA_MAX_INLINE 1024

struct dsa_completion {
  uint64_t user_data;
  int32_t status;  /* 0 or a negative errno. A failed WRITE over 1 MiB may have changed a part, from its start */
  uint32_t opcode;
  uint64_t length; /* bytes read or written */
  uint64_t lsn;    /* of changes: their place in the volume's order */
  uint64_t value;  /* of atomics: the number before */
};

/* `depth`, 1 to 1024: how much work may be posted and not yet completed (completions of DSA_SIGNALED work count until
 * they are polled). */
int dsa_create_queue(dsa_connection *connection, uint32_t depth, dsa_queue **queue);
/* Waits for nothing: what had not completed may or may not be carried out, but a group without DSA_COMMIT is not. */
void dsa_destroy_queue(dsa_queue *queue);

/* Posts `count` pieces of work, which go to the server together. Returns how many it took; -EAGAIN: none now, the queue
 * is full or too much is on its way, dsa_poll() makes room; -EINVAL if the first one is wrong (nothing is sent from the
 * first wrong one on). */
int dsa_post(dsa_queue *queue, const struct dsa_work *work, int count);
/* Takes up to `max` completions, without waiting. Returns how many. -ECONNRESET once all work has been given back. */
int dsa_poll(dsa_queue *queue, struct dsa_completion *completions, int max);
/* Waits until dsa_poll() would return something: 1, or 0 after `timeout_ms` (negative: no limit). Sleeps if it has to.
 * The success of work without DSA_SIGNALED does not end it. */
int dsa_wait(dsa_queue *queue, int timeout_ms);
/* For poll(2), epoll(7): becomes readable when there is something to do after dsa_arm() has returned 0. Belongs to the
 * queue. */
int dsa_queue_fd(dsa_queue *queue);
/* 1: do not sleep, call dsa_poll(), which may still return 0. 0: the descriptor will tell. When it does, call dsa_poll(),
 * which may still return 0, and arm again. */
int dsa_arm(dsa_queue *queue);

/* --- Mappings. On the server's machine only: else -EOPNOTSUPP --- */

#define DSA_PERSIST_DURABLE 1

/* Maps [offset, offset + length) of `file`, a multiple of the page size, at an address of the library's choosing: the
 * staged pages, shared with everybody who maps them. Beyond the end of the file there are zeros. Stores go to private
 * copies of their pages, visible to this program alone. */
int dsa_map(dsa_file *file, uint64_t offset, size_t length, dsa_mapping **mapping, void **address);
/* Makes the bytes of the mapping's [offset, offset + length) that were stored to one change, staged or, with
 * DSA_PERSIST_DURABLE, durable; others see them then. `lsn` may be NULL. -E2BIG: more than 16 MiB have changed, or in too
 * many places. When it fails nothing was changed, and the next call sends everything again; but after -ECONNRESET or
 * -ETIMEDOUT the change may have been made, and after -EIO it was, without being durable. Any thread. */
int dsa_persist(dsa_mapping *mapping, uint64_t offset, size_t length, int flags, uint64_t *lsn);
/* What was not persisted is lost. */
int dsa_unmap(dsa_mapping *mapping);

#ifdef __cplusplus
}
#endif

#endif /* STAGEFS_DSA_H_ */
