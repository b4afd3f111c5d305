// Memory: regions mapped, unmapped, protected, moved, shrunk, discarded, shared and copied on write in random order, each
// page with a pattern that is looked at all the time; and TLB shootdown: a thread that reads pages which another one
// replaces must never see an older page than the one announced.
#include "soak.h"
#include <sys/uio.h>

#define REGIONS 24
#define LARGEST 96 // pages

struct region {
  u8 *at;
  u64 size;              // pages; 0: none
  int protection, is_shared;
  u64 tags[LARGEST];     // of each page: what its words are made from; 0: all zeros
};
static struct region regions[REGIONS];

static u64 word_of(u64 tag, u64 i) { return tag ? mix(tag + i) : 0; }
static void write_page(struct region *r, u64 page) {
  u64 *p = (u64 *)(r->at + page * PAGE), tag = any() | 1, i;
  r->tags[page] = tag;
  for (i = 0; i < PAGE / 8; i += 1 + (i % 7))
    p[i] = word_of(tag, i);
}
static void check_page(const struct region *r, u64 page, const char *when) {
  const u64 *p = (const u64 *)(r->at + page * PAGE);
  u64 i;
  for (i = 0; i < PAGE / 8; i += 1 + (i % 7))
    if (p[i] != word_of(r->tags[page], i))
      wrong("%s: page %llu at %p, word %llu is %llx instead of %llx", when, (unsigned long long)page, r->at,
            (unsigned long long)i, (unsigned long long)p[i], (unsigned long long)word_of(r->tags[page], i));
}
static void check_region(const struct region *r, const char *when) {
  u64 page;
  if (r->protection & PROT_READ)
    for (page = 0; page < r->size; page++)
      check_page(r, page, when);
}

static void map(struct region *r) {
  r->size = 1 + below(LARGEST), r->protection = PROT_READ | PROT_WRITE, r->is_shared = below(4) == 0;
  r->at = mmap(0, r->size * PAGE, r->protection, MAP_ANONYMOUS | (r->is_shared ? MAP_SHARED : MAP_PRIVATE), -1, 0);
  must(r->at == MAP_FAILED ? -1 : 0, "mmap");
  memset(r->tags, 0, sizeof r->tags);
}
static void unmap(struct region *r) {
  u64 residue = 0;
  struct iovec local, remote;
  must(munmap(r->at, r->size * PAGE), "munmap");
  // Nobody else maps here at this moment: the page must be gone.
  local.iov_base = &residue, remote.iov_base = r->at, local.iov_len = remote.iov_len = 8;
  if (process_vm_readv(getpid(), &local, 1, &remote, 1, 0) != -1 || errno != EFAULT)
    wrong("a page is still there after munmap");
  r->size = 0;
}

static sigjmp_buf back;
static u8 *faulted;
static void on_fault(int signal, siginfo_t *info, void *context) {
  faulted = info->si_addr;
  siglongjmp(back, 1);
}
static int can(u8 *at, int is_write) {
  volatile u8 *p = at;
  u8 value;
  if (sigsetjmp(back, 1)) {
    if (faulted != at)
      wrong("a page fault at %p instead of %p", faulted, at);
    return 0;
  }
  value = *p; // not (void)*p, of which tcc makes nothing
  if (is_write)
    *p = value;
  return 1;
}
static void protect(struct region *r) {
  static const int kinds[] = {PROT_NONE, PROT_READ, PROT_READ | PROT_WRITE, PROT_READ | PROT_WRITE};
  u8 *at = r->at + below(r->size) * PAGE + below(PAGE);
  r->protection = kinds[below(4)];
  must(mprotect(r->at, r->size * PAGE, r->protection), "mprotect");
  if (can(at, 0) != !!(r->protection & PROT_READ))
    wrong("reading with protection %d", r->protection);
  if (r->protection != PROT_NONE && can(at, 1) != !!(r->protection & PROT_WRITE))
    wrong("writing with protection %d", r->protection);
}

static void resize(struct region *r) {
  u64 size = 1 + below(LARGEST), page;
  u8 *at;
  if (r->is_shared && size > r->size) // beyond the end of the shared object there is nothing
    size = r->size;
  at = mremap(r->at, r->size * PAGE, size * PAGE, MREMAP_MAYMOVE);
  must(at == MAP_FAILED ? -1 : 0, "mremap");
  for (page = r->size; page < size; page++)
    r->tags[page] = 0;
  r->at = at, r->size = size;
}
static void move(struct region *r) { // to a place of its own, over what was there
  u8 *to = pages(r->size, PROT_READ | PROT_WRITE);
  memset(to, 0xee, r->size * PAGE);
  if (mremap(r->at, r->size * PAGE, r->size * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, to) != to)
    wrong("mremap: %s", strerror(errno));
  r->at = to;
}
static void discard(struct region *r) {
  u64 first = below(r->size), n = 1 + below(r->size - first), i;
  if (r->is_shared)
    return;
  must(madvise(r->at + first * PAGE, n * PAGE, MADV_DONTNEED), "madvise");
  for (i = first; i < first + n; i++)
    r->tags[i] = 0;
}

// A child sees what its parent saw, writes to every region, and the parent sees that only in shared ones.
static void fork_all(void) {
  static u64 *told;
  int chosen = below(REGIONS), i;
  u64 page = 0;
  pid_t child;
  if (!told)
    told = mmap(0, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (regions[chosen].size)
    page = below(regions[chosen].size);
  child = must(fork(), "fork");
  if (child == 0) {
    for (i = 0; i < REGIONS; i++) {
      struct region *r = &regions[i];
      check_region(r, "in a child");
      if (r->size && r->protection == (PROT_READ | PROT_WRITE) && (i == chosen || !r->is_shared)) {
        write_page(r, i == chosen ? page : below(r->size));
        if (i == chosen)
          *told = r->tags[page];
        check_region(r, "in a child that wrote");
      }
    }
    _exit(0);
  }
  for (i = 0; i < REGIONS; i += 3) // at the same time
    if (!regions[i].is_shared)
      check_region(&regions[i], "beside a child");
  expect_exit(child, 0, "a child with copies of all regions");
  if (regions[chosen].size && regions[chosen].is_shared && regions[chosen].protection == (PROT_READ | PROT_WRITE))
    regions[chosen].tags[page] = *told;
}

// ---- huge pages: 2 MiB that the kernel may map as one, split by a change in the middle

static void huge(void) {
  static u8 *area;
  u64 *p, i, n = 2 << 20, hole;
  if (!area) {
    area = pages(1024 + 512, PROT_READ | PROT_WRITE);
    area = (u8 *)(((u64)area + n - 1) & -n);
  }
  madvise(area, n, MADV_HUGEPAGE); // a kernel without huge pages does the same with small ones
  p = (u64 *)area;
  for (i = 0; i < n / 8; i += 511)
    p[i] = mix(i);
  hole = below(512) * PAGE;
  must(mprotect(area + hole, PAGE, PROT_READ), "mprotect");
  if (can(area + hole, 1))
    wrong("a read-only page in the middle of a huge one can be written");
  must(madvise(area + hole, PAGE, MADV_DONTNEED), "madvise");
  for (i = 0; i < n / 8; i += 511)
    if (p[i] != (i * 8 / PAGE == hole / PAGE ? 0 : mix(i)))
      wrong("a huge page: word %llu is %llx", (unsigned long long)i, (unsigned long long)p[i]);
  must(mprotect(area, n, PROT_READ | PROT_WRITE), "mprotect");
  must(madvise(area, n, MADV_DONTNEED), "madvise");
}

// ---- TLB shootdown

#define TURNS 300
static struct { u8 *page; volatile u64 published, done; } shoot;
static void *replace(void *unused) {
  u8 *fresh, *was;
  u64 n;
  for (n = 1; n <= TURNS; n++) {
    fresh = pages(1, PROT_READ | PROT_WRITE);
    *(u64 *)fresh = *(u64 *)(fresh + PAGE - 8) = n;
    was = mremap(fresh, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, shoot.page);
    must(was == MAP_FAILED ? -1 : 0, "mremap");
    shoot.published = n;
    if (n % 16 == 0)
      sched_yield();
  }
  shoot.done = 1;
  return 0;
}
static void shootdown(void) {
  pthread_t thread;
  u64 published, seen, last = 0, done;
  if (!shoot.page)
    shoot.page = pages(1, PROT_READ | PROT_WRITE);
  *(u64 *)shoot.page = *(u64 *)(shoot.page + PAGE - 8) = 0;
  shoot.published = shoot.done = 0;
  must(pthread_create(&thread, 0, replace, 0) ? -1 : 0, "pthread_create");
  do {
    done = shoot.done, published = shoot.published;
    if (sigsetjmp(back, 1) == 0) { // between the pages there may be none
      seen = *(volatile u64 *)(shoot.page + (published & 1 ? 0 : PAGE - 8));
      if (seen < published || seen < last)
        wrong("a replaced page is still seen: %llu after %llu", (unsigned long long)seen, (unsigned long long)published);
      last = seen;
    } else if (faulted < shoot.page || faulted >= shoot.page + PAGE)
      wrong("a page fault at %p", faulted);
    else
      done = 0;
  } while (!done);
  pthread_join(thread, 0);
}

int main(int argc, char **argv) {
  struct sigaction action;
  u64 rounds = 0;
  int i;
  begin("memory", argc, argv);
  memset(&action, 0, sizeof action);
  action.sa_sigaction = on_fault, action.sa_flags = SA_SIGINFO;
  must(sigaction(SIGSEGV, &action, 0), "sigaction");
  for (; is_time_left(); rounds++) {
    for (i = 0; i < 60; i++) {
      struct region *r = &regions[below(REGIONS)];
      if (!r->size) {
        map(r);
        continue;
      }
      switch (below(12)) {
      case 0: unmap(r); break;
      case 1: case 2: protect(r); break;
      case 3: resize(r); break;
      case 4: move(r); break;
      case 5: discard(r); break;
      case 6: check_region(r, "later"); break;
      default:
        if (r->protection & PROT_WRITE)
          write_page(r, below(r->size));
        if (r->protection & PROT_READ)
          check_page(r, below(r->size), "at once");
      }
    }
    switch (rounds % 8) {
    case 0: fork_all(); break;
    case 3: huge(); break;
    case 5: shootdown(); break;
    }
  }
  return end(rounds);
}
