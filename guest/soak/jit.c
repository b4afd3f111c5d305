// Generated code: written, run, patched and run again, in every way programs do it: in a page that is writable and
// executable, by turns with mprotect, by a second mapping of the same memory, from another thread, after fork in a copy
// on write, in a page that was unmapped and mapped again; code that patches itself, and data written beside code.
#include "soak.h"
#include "program.h"

typedef u64 function(u64 *);

#define REGION 8 // pages: the largest program and some room
static struct program program;

static void *shared(int fd, int protection) {
  void *p = mmap(0, REGION * PAGE, protection, MAP_SHARED, fd, 0);
  must(p == MAP_FAILED ? -1 : 0, "mmap of a memfd");
  return p;
}

static void check(u8 *code, u64 *data, const char *how, u64 (*run)(function *, u64 *)) {
  u64 should[WORDS], result, right;
  int i;
  for (i = 0; i < WORDS; i++)
    should[i] = data[i] = any();
  right = expected(&program, should, code);
  result = run((function *)code, data);
  if (result != right)
    wrong("%s: result %llx instead of %llx", how, (unsigned long long)result, (unsigned long long)right);
  for (i = 0; i < WORDS; i++)
    if (data[i] != should[i])
      wrong("%s: word %d is %llx instead of %llx", how, i, (unsigned long long)data[i], (unsigned long long)should[i]);
}
static u64 here(function *f, u64 *data) { return f(data); }

// A second thread, on which code runs that this one has written.
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static function *asked;
static u64 *argument, answer;
static void *runner(void *unused) {
  for (;;) {
    pthread_mutex_lock(&lock);
    while (!asked)
      pthread_cond_wait(&changed, &lock);
    serialize(); // cross-modifying code: SDM volume 3, 9.1.3
    answer = asked(argument);
    asked = 0;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
  }
  return 0;
}
static u64 there(function *f, u64 *data) {
  u64 result;
  pthread_mutex_lock(&lock);
  asked = f, argument = data;
  pthread_cond_broadcast(&changed);
  while (asked)
    pthread_cond_wait(&changed, &lock);
  result = answer;
  pthread_mutex_unlock(&lock);
  return result;
}

// At any offset, so that instructions cross pages.
static u8 *place(u8 *region) { return region + below(REGION * PAGE - program.length); }

static void writable(u8 *region, u64 *data, int is_other_thread) {
  u8 *code = place(region);
  int patches = below(8);
  memcpy(code, program.code, program.length);
  for (;;) {
    check(code, data, is_other_thread ? "another thread" : "writable code", is_other_thread && below(2) ? there : here);
    if (patches-- == 0)
      return;
    patch(&program, code);
  }
}

static void protected(u8 *region, u64 *data) {
  u8 *code = place(region);
  int patches = below(4);
  must(mprotect(region, REGION * PAGE, PROT_READ | PROT_WRITE), "mprotect");
  memcpy(code, program.code, program.length);
  for (;;) {
    must(mprotect(region, REGION * PAGE, PROT_READ | PROT_EXEC), "mprotect");
    check(code, data, "mprotect", below(2) ? there : here);
    if (patches-- == 0)
      return;
    must(mprotect(region, REGION * PAGE, PROT_READ | PROT_WRITE), "mprotect");
    patch(&program, code);
  }
}

static void twice_mapped(u8 *write, u8 *execute, u64 *data) {
  u64 offset = place(write) - write;
  int patches = below(8);
  memcpy(write + offset, program.code, program.length);
  for (;;) {
    check(execute + offset, data, "a second mapping", below(4) ? here : there);
    if (patches-- == 0)
      return;
    patch(&program, write + offset);
  }
}

static void remapped(u64 *data) {
  static u8 *last;
  u8 *region, *code;
  int again;
  for (again = 0; again < 3; again++) {
    // The same address each time, where the kernel lets us: what was translated there must be gone.
    region = mmap(last, REGION * PAGE, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    must(region == MAP_FAILED ? -1 : 0, "mmap");
    last = region;
    generate(&program, 5 + below(100));
    code = region + 16;
    memcpy(code, program.code, program.length);
    check(code, data, "a page mapped again", here);
    must(munmap(region, REGION * PAGE), "munmap");
  }
}

static void forked(u8 *region, u64 *data) {
  u8 *code = place(region);
  pid_t child;
  memcpy(code, program.code, program.length);
  check(code, data, "before fork", here);
  child = must(fork(), "fork");
  seed += child; // each another
  patch(&program, code);
  check(code, data, child ? "the parent's copy" : "the child's copy", here);
  if (child == 0)
    _exit(0);
  expect_exit(child, 0, "the child that patched its copy");
}

// L: inc dword [the immediate of the add]; add eax, imm32; dec ecx; jnz L -- and a counter on the same page.
static void self_modifying(u8 *page) {
  static const u8 code[] = {0x31, 0xc0, 0x89, 0xf9, 0xff, 0x05, 1, 0, 0, 0, 0x05, 0, 0, 0, 0,
                            0xff, 0x05, 0, 0, 0, 0, 0xff, 0xc9, 0x75, 0xeb, 0xc3};
  u8 *at = page + below(PAGE - 64);
  u32 first = any(), sum = 0, result, i, count, n = 1 + below(300);
  int distance;
  volatile u32 *counter = (u32 *)(at + ((any() & 1) ? 28 : 44));
  memcpy(at, code, sizeof code);
  memcpy(at + 11, &first, 4);
  distance = (u8 *)counter - (at + 21);
  memcpy(at + 17, &distance, 4);
  count = *counter;
  for (i = 1; i <= n; i++)
    sum += first + i;
  result = ((u32(*)(u32))at)(n);
  if (result != sum)
    wrong("self-modifying code: %x instead of %x after %u rounds", result, sum, n);
  if (*counter != count + n)
    wrong("data beside code: %u instead of %u", *counter, count + n);
}

// One thread stores increasing numbers into the immediate of an instruction that another runs: an aligned store of at
// most 8 bytes is seen whole (APM volume 2, 7.6.1), and after a serializing instruction at the latest.
static struct { u8 *code; volatile u64 published, done; } crossing;
static void *modify(void *unused) {
  u32 n;
  for (n = 1; n <= 2000; n++) {
    *(volatile u32 *)(crossing.code + 8) = n;
    crossing.published = n;
    if (n % 100 == 0)
      sched_yield();
  }
  crossing.done = 1;
  return 0;
}
static void cross_modifying(u8 *page) {
  pthread_t thread;
  u64 published, done;
  u32 value, last = 0;
  crossing.code = page;
  crossing.published = crossing.done = 0;
  memset(page, 0x90, 7);
  memcpy(page + 7, "\xb8\0\0\0\0\xc3", 6); // mov eax, imm32; ret
  must(pthread_create(&thread, 0, modify, 0) ? -1 : 0, "pthread_create");
  do {
    done = crossing.done, published = crossing.published;
    serialize();
    value = ((u32(*)(void))page)();
    if (value < published || value < last || value > 2000)
      wrong("cross-modifying code: %u after %u, with %llu published", value, last, (unsigned long long)published);
    last = value;
  } while (!done);
  pthread_join(thread, 0);
}

int main(int argc, char **argv) {
  u8 *region, *turns, *one, *other;
  u64 *data, rounds = 0;
  pthread_t thread;
  int fd;
  begin("jit", argc, argv);
  region = pages(REGION + 1, PROT_READ | PROT_WRITE | PROT_EXEC);
  turns = pages(REGION, PROT_READ | PROT_WRITE);
  fd = must(memfd_create("code", 0), "memfd_create");
  must(ftruncate(fd, REGION * PAGE), "ftruncate");
  one = shared(fd, PROT_READ | PROT_WRITE), other = shared(fd, PROT_READ | PROT_EXEC);
  must(pthread_create(&thread, 0, runner, 0) ? -1 : 0, "pthread_create");
  for (; is_time_left(); rounds++) {
    // The words lie in a page of their own, across two pages, or behind the code.
    data = (u64 *)(region + REGION * PAGE + below(3) * 8);
    if (below(3) == 0)
      data = (u64 *)(turns + PAGE - 40), must(mprotect(turns, REGION * PAGE, PROT_READ | PROT_WRITE), "mprotect");
    generate(&program, 5 + below(below(10) ? 150 : 700));
    switch (rounds % 8) {
    case 0: writable(region, data, 0); break;
    case 1: writable(region, data, 1); break;
    case 2: protected(turns, (u64 *)(region + REGION * PAGE)); break;
    case 3: twice_mapped(one, other, data); break;
    case 4: remapped(data); break;
    case 5: forked(region, data); break;
    case 6: self_modifying(region); break;
    case 7: cross_modifying(region); break;
    }
  }
  return end(rounds);
}
