// Signals: the exceptions of user code as Linux hands them on, with the exact address, error code and state, and the
// instruction carried out afterwards as if nothing had happened; and timer signals, which must leave every register alone.
#include "soak.h"
#include "program.h"
#include <sys/time.h>

#define RESUMED 0x5eed

static struct {
  volatile int expected, taken;
  int code;               // si_code
  u8 *address;            // si_addr, 0 for any
  u64 rip, error;         // rip 0: any; error: bits 1 (write) and 4 (instruction fetch) of a page fault
  void (*act)(greg_t *, ucontext_t *);
} fault;

static void on_fault(int signal, siginfo_t *info, void *context) {
  ucontext_t *c = context;
  greg_t *r = c->uc_mcontext.gregs;
  if (signal != fault.expected)
    wrong("signal %d instead of %d at %llx, address %p", signal, fault.expected, (long long)r[REG_RIP], info->si_addr);
  if (info->si_code != fault.code)
    wrong("signal %d: code %d instead of %d", signal, info->si_code, fault.code);
  if (fault.address && info->si_addr != fault.address)
    wrong("signal %d: address %p instead of %p", signal, info->si_addr, fault.address);
  if (fault.rip && r[REG_RIP] != fault.rip)
    wrong("signal %d: at %llx instead of %llx", signal, (long long)r[REG_RIP], (long long)fault.rip);
  if (signal == SIGSEGV && (r[REG_ERR] & 0x12) != fault.error)
    wrong("page fault: error code %llx", (long long)r[REG_ERR]);
  fault.taken++;
  fault.act(r, c);
}

static void expect(int signal, int code, u8 *address, void *rip, void (*act)(greg_t *, ucontext_t *)) {
  fault.expected = signal, fault.code = code, fault.address = address, fault.rip = (u64)rip, fault.error = 0;
  fault.taken = 0, fault.act = act;
}
static void taken(int times, const char *what) {
  if (fault.taken != times)
    wrong("%s: %d signals instead of %d", what, fault.taken, times);
  fault.expected = 0;
}

static u8 *code; // one page, writable and executable
static u8 *put_code(const void *bytes, int length) { return memcpy(code + below(PAGE - 64), bytes, length); }

// ---- page faults

static u8 *three;       // three pages: readable, absent, readable
static u8 *hole(void) { return three + PAGE; }
static u8 before[64], pattern;

static void fill_hole(greg_t *r, ucontext_t *c) {
  u8 *p = mmap(hole(), PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
  if (memcmp(hole() - sizeof before, before, sizeof before))
    wrong("a store that faulted in its second page has changed the first");
  memset(p, pattern, PAGE);
}
static void open_hole(greg_t *r, ucontext_t *c) {
  must(mprotect(hole(), PAGE, PROT_READ | PROT_WRITE), "mprotect");
}
static void make_hole(void) {
  u64 i;
  must(munmap(hole(), PAGE), "munmap");
  for (i = 0; i < sizeof before; i++)
    before[i] = hole()[i - sizeof before] = any();
  pattern = any();
}

static void stores(void) {
  static const u8 store[] = {0x48, 0x89, 0x37, 0xc3};       // mov [rdi], rsi; ret
  static const u8 store16[] = {0xf3, 0x0f, 0x7f, 0x07, 0xc3}; // movdqu [rdi], xmm0; ret
  u8 *f, *at;
  u64 value = any(), back;
  make_hole();
  f = below(2) ? put_code(store, sizeof store) : put_code(store16, sizeof store16);
  at = hole() - below(8);
  expect(SIGSEGV, SEGV_MAPERR, hole(), f, fill_hole), fault.error = 2;
  ((void (*)(u8 *, u64))f)(at, value);
  taken(1, "a store to an unmapped page");
  memcpy(&back, at, 8);
  if (f[0] == 0x48 && (back != value || at[8] != pattern))
    wrong("a store after its page fault: %llx instead of %llx", (unsigned long long)back, (unsigned long long)value);

  must(mprotect(hole(), PAGE, PROT_NONE), "mprotect");
  f = put_code(store, sizeof store);
  expect(SIGSEGV, SEGV_ACCERR, hole() + 8, f, open_hole), fault.error = 2;
  ((void (*)(u8 *, u64))f)(hole() + 8, value);
  taken(1, "a store to a protected page");
  if (*(u64 *)(hole() + 8) != value)
    wrong("a store after mprotect is lost");
}

// A read-modify-write that faults must not have been carried out, nor be carried out twice.
static void modifies(void) {
  static const u8 add[] = {0xf0, 0x48, 0x0f, 0xc1, 0x37, 0x48, 0x89, 0xf0, 0xc3}; // lock xadd [rdi], rsi; mov rax, rsi; ret
  u8 *f = put_code(add, sizeof add);
  u64 was, n = any();
  make_hole();
  if (below(2))
    fill_hole(0, 0), *(u64 *)(hole() + 64) = any(), must(mprotect(hole(), PAGE, PROT_READ), "mprotect");
  else
    fill_hole(0, 0), must(mprotect(hole(), PAGE, PROT_NONE), "mprotect");
  expect(SIGSEGV, SEGV_ACCERR, hole() + 64, f, open_hole), fault.error = 2;
  was = ((u64(*)(u8 *, u64))f)(hole() + 64, n);
  taken(1, "lock xadd to a protected page");
  if (*(u64 *)(hole() + 64) != was + n)
    wrong("lock xadd after its page fault: %llx", (unsigned long long)*(u64 *)(hole() + 64));
}

static u64 left, moved_from;
static void in_the_middle(greg_t *r, ucontext_t *c) {
  if (r[REG_RDI] != (greg_t)hole() || r[REG_RCX] != left || r[REG_RSI] != moved_from)
    wrong("rep movsb: rdi %llx rsi %llx rcx %llx at its page fault", (long long)r[REG_RDI], (long long)r[REG_RSI], (long long)r[REG_RCX]);
  must(mmap(hole(), PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED ? -1 : 0, "mmap");
}
static void strings(void) {
  static const u8 move[] = {0x48, 0x89, 0xd1, 0xf3, 0xa4, 0x48, 0x89, 0xc8, 0xc3}; // mov rcx, rdx; rep movsb; mov rax, rcx; ret
  u8 *f = put_code(move, sizeof move), *source = three + 2 * PAGE;
  u64 head = below(500), length = head + 1 + below(2000), i;
  make_hole();
  for (i = 0; i < length; i++)
    source[i] = any();
  left = length - head, moved_from = (u64)source + head;
  expect(SIGSEGV, SEGV_MAPERR, hole(), f + 3, in_the_middle), fault.error = 2;
  if (((u64(*)(u8 *, u8 *, u64))f)(hole() - head, source, length) != 0)
    wrong("rep movsb left rcx above 0");
  taken(1, "rep movsb into an unmapped page");
  if (memcmp(hole() - head, source, length))
    wrong("rep movsb across its page fault moved wrong bytes");
}

static void allow(greg_t *r, ucontext_t *c) {
  must(mprotect((u8 *)((u64)fault.address & -PAGE), PAGE, PROT_READ | PROT_EXEC), "mprotect");
}
static void fetches(void) {
  static u8 *two;
  u8 *f;
  int value = any(), tail = 1 + below(5), is_crossing = below(2);
  if (!two)
    two = pages(2, PROT_NONE);
  must(mprotect(two, 2 * PAGE, PROT_READ | PROT_WRITE), "mprotect");
  f = is_crossing ? two + PAGE - tail : two + below(PAGE - 8);
  f[0] = 0xb8, memcpy(f + 1, &value, 4), f[5] = 0xc3; // mov eax, imm32; ret
  must(mprotect(two, PAGE, is_crossing ? PROT_READ | PROT_EXEC : PROT_READ), "mprotect");
  // Five bytes before the edge it is the ret that faults, not the mov.
  expect(SIGSEGV, SEGV_ACCERR, is_crossing ? two + PAGE : f, is_crossing && tail == 5 ? f + 5 : f, allow), fault.error = 0x10;
  if (((int (*)(void))f)() != value)
    wrong("code after its page was made executable gave a wrong result");
  taken(1, "a fetch from a page without execute permission");
}

// ---- arithmetic

static int resume_length;
static void go_on(greg_t *r, ucontext_t *c) {
  r[REG_RIP] += resume_length, r[REG_RAX] = RESUMED;
  c->uc_mcontext.fpregs->mxcsr = 0x1f80;
}
static void divisions(void) {
  static const u8 divide[] = {0x89, 0xf8, 0x99, 0xf7, 0xfe, 0xc3}; // mov eax, edi; cdq; idiv esi; ret
  u8 *f = put_code(divide, sizeof divide);
  int is_overflow = below(2), a = is_overflow ? -2147483647 - 1 : any(), b = is_overflow ? -1 : 0;
  resume_length = 2;
  expect(SIGFPE, FPE_INTDIV, f + 3, f + 3, go_on);
  if (((u32(*)(int, int))f)(a, b) != RESUMED)
    wrong("idiv: not resumed behind it");
  taken(1, "idiv");
}

static void sse(void) {
  static const struct { u8 op; int code; u32 mask; double a, b; } cases[] = {
      {0x5e, FPE_FLTDIV, 0x1f80 & ~0x200, 1, 0},       // divsd
      {0x51, FPE_FLTINV, 0x1f80 & ~0x80, 1, -1},       // sqrtsd
      {0x59, FPE_FLTOVF, 0x1f80 & ~0x400, 1e300, 1e300}, // mulsd
      {0x59, FPE_FLTUND, 0x1f80 & ~0x800, 1e-300, 1e-300},
      {0x58, FPE_FLTRES, 0x1f80 & ~0x1000, 1, 1e-30},  // addsd
  };
  u8 bytes[] = {0x0f, 0xae, 0x17, 0xf2, 0x0f, 0, 0xc1, 0xc3}, *f; // ldmxcsr [rdi]; OP xmm0, xmm1; ret
  int i = below(sizeof cases / sizeof *cases);
  u32 mxcsr = cases[i].mask;
  double result;
  bytes[5] = cases[i].op;
  f = put_code(bytes, sizeof bytes);
  resume_length = 4;
  expect(SIGFPE, cases[i].code, f + 3, f + 3, go_on);
  result = ((double (*)(u32 *, double, double))f)(&mxcsr, cases[i].a, cases[i].b);
  taken(1, "an SSE exception");
  if (result != cases[i].a)
    wrong("an SSE instruction that faulted has changed its destination");
}

static void x87(void) {
  // fldcw [rdi]; fld1; fldz; fdivp; fwait; fstp st(0); fninit; ret
  static const u8 divide[] = {0xd9, 0x2f, 0xd9, 0xe8, 0xd9, 0xee, 0xde, 0xf9, 0x9b, 0xdd, 0xd8, 0xdb, 0xe3, 0xc3};
  u8 *f = put_code(divide, sizeof divide);
  u16 control = 0x37f & ~4;
  resume_length = 5; // behind fninit
  expect(SIGFPE, FPE_FLTDIV, 0, f + 8, go_on); // x87 faults wait for the next x87 instruction
  if (((u32(*)(u16 *))f)(&control) != RESUMED)
    wrong("x87: not resumed");
  taken(1, "an x87 division by zero");
  __asm__ volatile("fninit");
}

static void undefined(void) {
  static const u8 ud2[] = {0x0f, 0x0b, 0xc3};
  u8 *f = put_code(ud2, sizeof ud2);
  resume_length = 2;
  expect(SIGILL, ILL_ILLOPN, f, f, go_on);
  if (((u32(*)(void))f)() != RESUMED)
    wrong("ud2: not resumed behind it");
  taken(1, "ud2");
}

static void breakpoint(void) {
  static const u8 int3[] = {0x31, 0xc0, 0xcc, 0xc3};
  u8 *f = put_code(int3, sizeof int3);
  resume_length = 0;
  expect(SIGTRAP, SI_KERNEL, 0, f + 3, go_on);
  if (((u32(*)(void))f)() != RESUMED)
    wrong("int3: not resumed behind it");
  taken(1, "int3");
}

// ---- the trap flag: a signal behind each instruction, with the registers the model says

static struct program program;
static u8 *program_page;
static struct state model;
static int next_op, first_op;
static void on_step(greg_t *r, ucontext_t *c) {
  static const int names[] = {REG_RAX, REG_RCX, REG_RDX, REG_RSI, REG_R8, REG_R9};
  u8 *rip = (u8 *)r[REG_RIP];
  int i;
  fault.taken = 0;
  if (next_op < 0) { // behind the ret that ends the program
    r[REG_EFL] &= ~0x100;
    return;
  }
  if (rip != program_page + program.ops[next_op].at)
    wrong("single step: at %p instead of %p", rip, program_page + program.ops[next_op].at);
  for (i = 0; i < 6 && next_op >= 6; i++)
    if (r[names[i]] != model.r[usable[i]])
      wrong("single step: register %d is %llx instead of %llx before op %d", i, (long long)r[names[i]], (long long)model.r[usable[i]], next_op);
  next_op = step(&model, &program.ops[next_op], next_op, program_page, &program);
}
static void stepped(void) {
  // pushf; or dword [rsp], 100h; popf; jmp rsi -- the first trap comes behind the jmp, at the program
  static const u8 enter[] = {0x9c, 0x81, 0x0c, 0x24, 0, 1, 0, 0, 0x9d, 0xff, 0xe6};
  u64 data[WORDS], result;
  u8 *f = put_code(enter, sizeof enter);
  int i;
  if (!program_page)
    program_page = pages(8, PROT_READ | PROT_WRITE | PROT_EXEC);
  generate(&program, 5 + below(30));
  memcpy(program_page, program.code, program.length);
  memset(&model, 0, sizeof model);
  for (i = 0; i < WORDS; i++)
    data[i] = model.data[i] = any();
  next_op = 0;
  expect(SIGTRAP, TRAP_TRACE, 0, 0, on_step);
  result = ((u64(*)(u64 *, u8 *))f)(data, program_page);
  if (next_op != -1 || result != model.r[0] || memcmp(data, model.data, sizeof data))
    wrong("single step: result %llx instead of %llx", (unsigned long long)result, (unsigned long long)model.r[0]);
  fault.expected = 0;
}

// ---- timer signals

static volatile u64 ticks;
static volatile double noise;
static void on_timer(int signal) {
  ticks++;
  noise = noise * 1.5 + ticks; // uses the registers that the interrupted code uses
  __asm__ volatile("fninit; fldpi; fldpi; pcmpeqb %%xmm0, %%xmm0; pcmpeqb %%xmm7, %%xmm7" : : : "memory");
}

static int has_avx(void) {
  static char line[4096];
  static int known = -1;
  FILE *f;
  if (known < 0) {
    known = 0;
    f = fopen("/proc/cpuinfo", "r");
    while (f && fgets(line, sizeof line, f))
      if (!strncmp(line, "flags", 5) && strstr(line, " avx "))
        known = 1;
    if (f)
      fclose(f);
  }
  return known;
}

// Loads all vector registers from in, waits, stores them to out.
static void vectors(void) {
  static u8 in[16][32], out[16][32];
  u8 *f = code, *p = f;
  int avx = has_avx(), width = avx ? 32 : 16, i, pass;
  for (i = 0; i < 16 * 32; i++)
    in[0][i] = any(), out[0][i] = 0;
  for (pass = 0; pass < 2; pass++) {
    for (i = 0; i < 16; i++) {
      if (avx) // vmovdqu
        *p++ = 0xc5, *p++ = i < 8 ? 0xfe : 0x7e;
      else { // movdqu
        *p++ = 0xf3;
        if (i >= 8)
          *p++ = 0x44;
        *p++ = 0x0f;
      }
      *p++ = pass ? 0x7f : 0x6f, *p++ = 0x80 | (i & 7) << 3 | (pass ? 6 : 7); // [rsi + disp32] or [rdi + disp32]
      *p++ = i * 32, *p++ = i * 32 >> 8, *p++ = 0, *p++ = 0;
    }
    if (!pass) // mov ecx, edx; L: dec ecx; jnz L
      memcpy(p, "\x89\xd1\xff\xc9\x75\xfc", 6), p += 6;
  }
  if (avx)
    memcpy(p, "\xc5\xf8\x77", 3), p += 3; // vzeroupper
  *p = 0xc3;
  ((void (*)(u8 *, u8 *, u32))f)(in[0], out[0], 300000);
  for (i = 0; i < 16; i++)
    if (memcmp(in[i], out[i], width))
      wrong("vector register %d was lost by a signal", i);
}

static double arithmetic(void) {
  double x = 1, y = 0;
  long double z = 1;
  int i;
  for (i = 1; i < 5000; i++)
    x = x * 1.0000001 + i, y += x / i, z = z * 1.0000001L + y;
  return y + (double)z;
}

static void timers(void) {
  struct itimerval interval = {{0, 2000}, {0, 2000}}, off = {{0, 0}, {0, 0}};
  int which = below(2) ? ITIMER_REAL : ITIMER_PROF, i;
  double right = arithmetic();
  u64 start = now(), most;
  ticks = 0;
  must(setitimer(which, &interval, 0), "setitimer");
  for (i = 0; i < 3 || (ticks == 0 && is_time_left()); i++) {
    if (arithmetic() != right)
      wrong("arithmetic between timer signals gave another result");
    vectors();
  }
  must(setitimer(which, &off, 0), "setitimer");
  most = (now() - start) / 2000000 + 1;
  // CPU time is counted in jiffies: no upper limit for ITIMER_PROF.
  if (which == ITIMER_REAL && ticks > most)
    wrong("%llu timer signals in the time of %llu", (unsigned long long)ticks, (unsigned long long)most);
}

int main(int argc, char **argv) {
  static const int faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP};
  struct sigaction action;
  stack_t stack;
  u64 rounds = 0;
  int i;
  begin("signals", argc, argv);
  stack.ss_sp = pages(16, PROT_READ | PROT_WRITE), stack.ss_size = 16 * PAGE, stack.ss_flags = 0;
  must(sigaltstack(&stack, 0), "sigaltstack");
  memset(&action, 0, sizeof action);
  action.sa_sigaction = on_fault;
  for (i = 0; i < (int)(sizeof faults / sizeof *faults); i++) {
    action.sa_flags = SA_SIGINFO | (i % 2 ? SA_ONSTACK : 0);
    must(sigaction(faults[i], &action, 0), "sigaction");
  }
  action.sa_handler = on_timer, action.sa_flags = SA_RESTART;
  must(sigaction(SIGALRM, &action, 0), "sigaction");
  must(sigaction(SIGPROF, &action, 0), "sigaction");
  code = pages(1, PROT_READ | PROT_WRITE | PROT_EXEC);
  three = pages(3, PROT_READ | PROT_WRITE);
  for (; is_time_left(); rounds++) {
    for (i = 0; i < 10; i++)
      stores(), modifies(), strings(), fetches(), divisions(), sse(), x87(), undefined(), breakpoint();
    stepped();
    if (rounds % 8 == 0)
      timers();
  }
  return end(rounds);
}
