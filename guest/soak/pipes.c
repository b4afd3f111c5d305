// Pipes: bytes through pipes, socket pairs, eventfds and shared memory with process-shared futexes, between processes, in
// pieces of random size; all must come out, in order.
#include "soak.h"
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/uio.h>

static u8 byte_of(u64 key, u64 i) { return mix(key + (i >> 3)) >> (i & 7) * 8; }

static void send_all(int fd, u64 key, u64 length) {
  static u8 buffer[70000];
  u64 sent = 0, i;
  while (sent < length) {
    u64 n = 1 + below(below(4) ? 5000 : sizeof buffer);
    long w;
    if (n > length - sent)
      n = length - sent;
    for (i = 0; i < n; i++)
      buffer[i] = byte_of(key, sent + i);
    w = must(write(fd, buffer, n), "write");
    sent += w;
  }
}
static void receive_all(int fd, u64 key, u64 length, const char *what) {
  static u8 first[9000], second[9000];
  u64 received = 0, i;
  while (received < length) {
    struct iovec v[2];
    long n;
    v[0].iov_base = first, v[0].iov_len = 1 + below(sizeof first);
    v[1].iov_base = second, v[1].iov_len = 1 + below(sizeof second);
    n = must(readv(fd, v, 2), "readv");
    if (n == 0)
      wrong("%s: the end after %llu of %llu bytes", what, (unsigned long long)received, (unsigned long long)length);
    for (i = 0; i < (u64)n; i++) {
      u8 is = i < v[0].iov_len ? first[i] : second[i - v[0].iov_len];
      if (is != byte_of(key, received + i))
        wrong("%s: byte %llu is %x instead of %x", what, (unsigned long long)(received + i), is, byte_of(key, received + i));
    }
    received += n;
  }
}

// There through one, back through the other.
static void echo(int to[2], int from[2], const char *what) {
  u64 key = any(), length = 1 + below(200000);
  u8 end;
  pid_t child = must(fork(), "fork"), writer;
  if (child == 0) {
    seed++;
    close(to[1]), close(from[0]);
    receive_all(to[0], key, length, what);
    send_all(from[1], key + 1, length);
    _exit(0);
  }
  writer = must(fork(), "fork");
  if (writer == 0) {
    send_all(to[1], key, length);
    _exit(0);
  }
  close(to[0]), close(from[1]);
  receive_all(from[0], key + 1, length, what);
  close(to[1]);
  expect_exit(writer, 0, what), expect_exit(child, 0, what);
  if (read(from[0], &end, 1) != 0)
    wrong("%s: no end after the last byte", what);
  close(from[0]);
}
static void pipes(void) {
  int to[2], from[2];
  must(pipe(to), "pipe"), must(pipe(from), "pipe");
  echo(to, from, "a pipe");
}
static void sockets(void) {
  int a[2], b[2], to[2], from[2];
  must(socketpair(AF_UNIX, SOCK_STREAM, 0, a), "socketpair"), must(socketpair(AF_UNIX, SOCK_STREAM, 0, b), "socketpair");
  to[0] = a[0], to[1] = a[1], from[0] = b[0], from[1] = b[1];
  echo(to, from, "a socket pair");
}

static void eventfds(void) {
  int there = must(eventfd(0, 0), "eventfd"), back = must(eventfd(0, EFD_SEMAPHORE), "eventfd"), i;
  u64 n, sum = 0;
  pid_t child = must(fork(), "fork");
  if (child == 0) {
    for (n = 1; n <= 100; n++)
      if (write(there, &n, 8) != 8)
        _exit(1);
    for (i = 0; i < 100; i++)
      if (read(back, &n, 8) != 8 || n != 1)
        _exit(2);
    _exit(0);
  }
  while (sum < 5050) {
    must(read(there, &n, 8), "read of an eventfd");
    sum += n;
  }
  if (sum != 5050)
    wrong("eventfd: %llu instead of 5050", (unsigned long long)sum);
  n = 100;
  must(write(back, &n, 8), "write of an eventfd");
  expect_exit(child, 0, "the other side of an eventfd");
  close(there), close(back);
}

// A ring in shared memory, with a mutex and conditions that live there too.
struct ring {
  pthread_mutex_t mutex;
  pthread_cond_t changed;
  u64 written, read;
  u8 bytes[256];
};
static void rings(void) {
  struct ring *r = mmap(0, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  pthread_mutexattr_t mutex;
  pthread_condattr_t condition;
  u64 key = any(), length = 5000, i, n;
  pid_t child;
  must(r == MAP_FAILED ? -1 : 0, "mmap");
  pthread_mutexattr_init(&mutex), pthread_mutexattr_setpshared(&mutex, PTHREAD_PROCESS_SHARED);
  pthread_condattr_init(&condition), pthread_condattr_setpshared(&condition, PTHREAD_PROCESS_SHARED);
  pthread_mutex_init(&r->mutex, &mutex), pthread_cond_init(&r->changed, &condition);
  child = must(fork(), "fork");
  for (i = 0; i < length; i += n) {
    pthread_mutex_lock(&r->mutex);
    if (child == 0) {
      while (r->written - r->read == sizeof r->bytes)
        pthread_cond_wait(&r->changed, &r->mutex);
      for (n = 0; i + n < length && r->written - r->read < sizeof r->bytes; n++)
        r->bytes[r->written++ % sizeof r->bytes] = byte_of(key, i + n);
    } else {
      while (r->written == r->read)
        pthread_cond_wait(&r->changed, &r->mutex);
      for (n = 0; r->written != r->read; n++)
        if (r->bytes[r->read++ % sizeof r->bytes] != byte_of(key, i + n))
          wrong("a ring in shared memory: byte %llu is wrong", (unsigned long long)(i + n));
    }
    pthread_cond_signal(&r->changed);
    pthread_mutex_unlock(&r->mutex);
  }
  if (child == 0)
    _exit(0);
  expect_exit(child, 0, "the writer of a ring");
  must(munmap(r, PAGE), "munmap");
}

int main(int argc, char **argv) {
  u64 rounds = 0;
  begin("pipes", argc, argv);
  for (; is_time_left(); rounds++)
    switch (rounds % 4) {
    case 0: pipes(); break;
    case 1: sockets(); break;
    case 2: eventfds(); break;
    case 3: rings(); break;
    }
  return end(rounds);
}
