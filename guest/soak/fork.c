// Processes: storms of children that exit, exec, die by signals, or write to their copy of memory; every exit status and
// the parent's memory are checked.
#include "soak.h"
#include <spawn.h>

#define STORM 12
#define SHARE 16 // pages copied on write

static u8 *memory;
static u8 tag(u64 offset, u64 round) { return mix(offset * 31 + round); }
static void fill(u64 round) {
  u64 i;
  for (i = 0; i < SHARE * PAGE; i += 61)
    memory[i] = tag(i, round);
}
static int is_intact(u64 round) {
  u64 i;
  for (i = 0; i < SHARE * PAGE; i += 61)
    if (memory[i] != tag(i, round))
      return 0;
  return 1;
}

static void run(char *program, char *argument) {
  static char *const environment[] = {"PATH=/bin", 0};
  char *arguments[3];
  arguments[0] = program, arguments[1] = argument, arguments[2] = 0;
  execve("/bin/busybox", arguments, environment);
  _exit(127);
}

struct expectation { pid_t pid; int status; };

static struct expectation one(u64 round) {
  static const int signals[] = {SIGKILL, SIGTERM, SIGABRT, SIGSEGV};
  struct expectation e;
  int what = below(7), code = below(120), signal = signals[below(4)];
  char *arguments[2] = {"true", 0};
  e.status = code << 8;
  if (what == 5) { // vfork by posix_spawn: the child borrows the parent's memory
    e.status = 0;
    must(posix_spawn(&e.pid, "/bin/busybox", 0, 0, arguments, arguments + 1) ? -1 : 0, "posix_spawn");
    return e;
  }
  e.pid = must(fork(), "fork");
  if (e.pid == 0)
    switch (what) {
    case 0: _exit(code);
    case 1: run("true", 0);
    case 2: run("false", 0);
    case 3: kill(getpid(), signal), pause(), _exit(126);
    case 4: // writes to its copy, which is right before and after
      if (!is_intact(round))
        _exit(125);
      fill(round + code + 1);
      _exit(is_intact(round + code + 1) ? code : 124);
    case 6: // a grandchild
      {
        pid_t pid = fork();
        int status;
        if (pid == 0)
          fill(round + 1000), _exit(code);
        if (pid < 0 || waitpid(pid, &status, 0) != pid)
          _exit(123);
        _exit(is_intact(round) ? WEXITSTATUS(status) : 122);
      }
    }
  if (what == 1)
    e.status = 0;
  if (what == 2)
    e.status = 1 << 8;
  if (what == 3)
    e.status = signal;
  return e;
}

int main(int argc, char **argv) {
  struct expectation expected[STORM];
  u64 rounds = 0;
  int i, left, status;
  begin("fork", argc, argv);
  memory = pages(SHARE, PROT_READ | PROT_WRITE);
  for (; is_time_left(); rounds++) {
    fill(rounds);
    for (i = 0; i < STORM; i++)
      expected[i] = one(rounds), seed += expected[i].pid;
    for (left = STORM; left > 0; left--) {
      pid_t pid = must(waitpid(-1, &status, 0), "waitpid");
      for (i = 0; i < STORM && expected[i].pid != pid; i++)
        ;
      if (i == STORM)
        wrong("pid %d is no child of this storm", pid);
      if ((status & ~0x80) != expected[i].status) // 80h: a core was dumped
        wrong("a child ended with status %#x instead of %#x", status, expected[i].status);
      expected[i].pid = 0;
    }
    if (!is_intact(rounds))
      wrong("a child's writes are seen by its parent");
  }
  return end(rounds);
}
