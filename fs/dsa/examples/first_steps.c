/* Direct access in one page: writes two records, the second never without the first, makes them durable, and reads the
 * first one back. usage: first_steps ADDRESS. cc first_steps.c $(pkg-config --cflags --libs stagefs) */

#include <fcntl.h>
#include <stagefs/dsa.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char buffer[4096];

static void check(int status, const char *what) {
  if (status >= 0) return;
  fprintf(stderr, "%s: %s: %s\n", what, strerror(-status), dsa_error());
  exit(1);
}

/* Waits until one more piece of work has completed. */
static struct dsa_completion complete(dsa_queue *queue) {
  struct dsa_completion completion;
  int count;
  while ((count = dsa_poll(queue, &completion, 1)) == 0) check(dsa_wait(queue, -1), "wait");
  check(count, "poll");
  check(completion.status, "work");
  return completion;
}

int main(int argc, char **argv) {
  dsa_connection *connection;
  dsa_file *file;
  dsa_memory *memory;
  dsa_queue *queue;
  check(dsa_connect(argc > 1 ? argv[1] : "volume.img", NULL, &connection), "connect");
  check(dsa_open(connection, "/records", O_RDWR | O_CREAT, 0644, &file), "open");
  check(dsa_register(connection, buffer, sizeof(buffer), DSA_LOCAL_READ | DSA_LOCAL_WRITE, &memory), "register");
  check(dsa_create_queue(connection, 16, &queue), "queue");

  /* Two changes, accepted in this order. Only the second one says when it is done: then both are durable. */
  struct dsa_work writes[2] = {
      {.opcode = DSA_WRITE, .file = file, .offset = 0, .buffer = "first", .length = 5},
      {.opcode = DSA_WRITE, .flags = DSA_SIGNALED | DSA_DURABLE, .file = file, .offset = 100, .buffer = "second",
       .length = 6},
  };
  check(dsa_post(queue, writes, 2), "post");
  printf("durable, with everything before: LSN %llu\n", (unsigned long long)complete(queue).lsn);

  struct dsa_work read = {.opcode = DSA_READ, .flags = DSA_SIGNALED, .file = file, .offset = 0, .buffer = buffer,
                          .length = 5, .memory = memory};
  check(dsa_post(queue, &read, 1), "post");
  printf("read back: %.*s\n", (int)complete(queue).length, buffer);

  dsa_destroy_queue(queue);
  dsa_deregister(memory);
  dsa_close(file);
  dsa_disconnect(connection);
  return 0;
}
