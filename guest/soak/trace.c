// A debugger: single steps, breakpoints written into another process's code, hardware breakpoints and watchpoints, with
// the number of stops, their addresses and all registers as the model of the program has them.
#include "soak.h"
#include "program.h"
#include <stddef.h>
#include <sys/ptrace.h>
#include <sys/user.h>

static struct program program;
static u8 *base;
static u64 *data;
static pid_t child;

static u8 *address(int op) { return base + program.ops[op].at; }

static struct user_regs_struct stopped(int signal, const char *what) {
  struct user_regs_struct r;
  int status;
  must(waitpid(child, &status, 0), "waitpid");
  if (!WIFSTOPPED(status) || WSTOPSIG(status) != signal)
    wrong("%s: status %#x instead of a stop by signal %d", what, status, signal);
  must(ptrace(PTRACE_GETREGS, child, 0, &r), "PTRACE_GETREGS");
  return r;
}
static struct user_regs_struct go(int how, const char *what) {
  must(ptrace(how, child, 0, 0), what);
  return stopped(SIGTRAP, what);
}
static void set_rip(struct user_regs_struct *r, u8 *rip) {
  r->rip = (u64)rip;
  must(ptrace(PTRACE_SETREGS, child, 0, r), "PTRACE_SETREGS");
}
static int poke(u8 *at, int value) { // returns the byte that was there
  u64 word = ptrace(PTRACE_PEEKTEXT, child, at, 0);
  must(ptrace(PTRACE_POKETEXT, child, at, (word & ~255ULL) | value), "PTRACE_POKETEXT");
  return word & 255;
}
static void set_debug_register(int n, u64 value) {
  must(ptrace(PTRACE_POKEUSER, child, offsetof(struct user, u_debugreg) + n * 8, value), "debug register");
}

// A child that runs the program once, stopped before it does; exits with 0 if the result is right.
static void start(void) {
  u64 should[WORDS], right;
  int i;
  for (i = 0; i < WORDS; i++)
    should[i] = data[i] = any();
  right = expected(&program, should, base);
  child = must(fork(), "fork");
  if (child == 0) {
    must(ptrace(PTRACE_TRACEME, 0, 0, 0), "PTRACE_TRACEME");
    raise(SIGSTOP);
    _exit(((u64(*)(u64 *))base)(data) != right || memcmp(data, should, sizeof should));
  }
  stopped(SIGSTOP, "the start");
}
static void finish(const char *what) {
  must(ptrace(PTRACE_CONT, child, 0, 0), "PTRACE_CONT");
  expect_exit(child, 0, what);
}

static struct state model;
static int op;
static void model_begin(void) {
  memset(&model, 0, sizeof model);
  memcpy(model.data, data, sizeof model.data);
  op = 0;
}
static void model_step(void) { op = step(&model, &program.ops[op], op, base, &program); }

static void compare(const struct user_regs_struct *r, const char *what) {
  const u64 is[] = {r->rax, r->rcx, r->rdx, r->rsi, r->r8, r->r9};
  int i;
  if (r->rip != (u64)address(op))
    wrong("%s: at %llx instead of %p", what, r->rip, address(op));
  for (i = 0; i < 6 && op >= 6; i++)
    if (is[i] != model.r[usable[i]])
      wrong("%s: register %d is %llx instead of %llx before op %d", what, i, (unsigned long long)is[i], (unsigned long long)model.r[usable[i]], op);
}

static void single_steps(void) {
  struct user_regs_struct r;
  int first, steps;
  start(), model_begin();
  first = poke(base, 0xcc);
  r = go(PTRACE_CONT, "the breakpoint at the start");
  if (r.rip != (u64)base + 1)
    wrong("the breakpoint at the start: at %llx", r.rip);
  poke(base, first);
  set_rip(&r, base);
  for (steps = 0; steps < 400; steps++) {
    model_step();
    if (op < 0)
      break;
    r = go(PTRACE_SINGLESTEP, "single step");
    compare(&r, "single step");
  }
  finish("after single steps");
}

static void breakpoints(void) {
  struct user_regs_struct r;
  int where = below(program.count), saved, hits = 0;
  start(), model_begin();
  saved = poke(address(where), 0xcc);
  for (; op >= 0 && hits < 40; model_step())
    if (op == where) {
      r = go(PTRACE_CONT, "breakpoint");
      r.rip--;
      compare(&r, "breakpoint");
      set_rip(&r, address(where));
      poke(address(where), saved);
      go(PTRACE_SINGLESTEP, "the step over a breakpoint");
      poke(address(where), 0xcc);
      hits++;
    }
  poke(address(where), saved);
  finish("after breakpoints");
}

static void hardware_breakpoints(void) {
  struct user_regs_struct r;
  int where = below(program.count), hits = 0;
  start(), model_begin();
  set_debug_register(0, (u64)address(where));
  set_debug_register(7, 1);
  for (; op >= 0 && hits < 40; model_step())
    if (op == where)
      r = go(PTRACE_CONT, "hardware breakpoint"), compare(&r, "hardware breakpoint"), hits++;
  set_debug_register(7, 0);
  finish("after hardware breakpoints");
}

static void watchpoints(void) {
  struct user_regs_struct r;
  int where = below(WORDS), hits = 0;
  u64 value;
  start(), model_begin();
  set_debug_register(1, (u64)&data[where]);
  set_debug_register(7, 1 << 2 | 9 << 20); // L1, writes of 8 bytes
  while (op >= 0 && hits < 40) {
    int is_write = (program.ops[op].code == STORE || program.ops[op].code == ADD_TO) && program.ops[op].b == where;
    model_step();
    if (is_write) {
      r = go(PTRACE_CONT, "watchpoint"), compare(&r, "watchpoint"), hits++;
      value = ptrace(PTRACE_PEEKDATA, child, &data[where], 0);
      if (value != model.data[where])
        wrong("watchpoint: the word is %llx instead of %llx", (unsigned long long)value, (unsigned long long)model.data[where]);
    }
  }
  set_debug_register(7, 0);
  finish("after watchpoints");
}

int main(int argc, char **argv) {
  u64 rounds = 0;
  u8 *region;
  begin("trace", argc, argv);
  region = pages(9, PROT_READ | PROT_WRITE | PROT_EXEC);
  data = (u64 *)(region + 8 * PAGE);
  for (; is_time_left(); rounds++) {
    generate(&program, 5 + below(100));
    base = region + below(4 * PAGE);
    memcpy(base, program.code, program.length);
    switch (rounds % 4) {
    case 0: single_steps(); break;
    case 1: breakpoints(); break;
    case 2: hardware_breakpoints(); break;
    case 3: watchpoints(); break;
    }
  }
  return end(rounds);
}
