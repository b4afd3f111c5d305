// Reads and writes a disk as programs do that go around the page cache: io_submit(2) with O_DIRECT at a fixed depth.
//
//   diskbench DEVICE NAME...     NAME: randread1 randread32 randwrite1 randwrite32 seqread seqwrite
//
// Speaks bench/compare's protocol: "> NAME", "<", then a line with a checksum and what the guest's clock says. Places
// and contents come from a fixed generator: each machine does the same work and has to find the same data.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/fs.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { MAXIMUM_DEPTH = 32, MAXIMUM_SIZE = 1 << 20 };

static const struct workload {
    const char *name;
    int depth, size, count, is_write, is_random;
} workloads[] = {
    {"randread1", 1, 4096, 10000, 0, 1},  {"randread32", 32, 4096, 40000, 0, 1}, {"randwrite1", 1, 4096, 10000, 1, 1},
    {"randwrite32", 32, 4096, 40000, 1, 1}, {"seqread", 4, 1 << 20, 256, 0, 0},  {"seqwrite", 4, 1 << 20, 256, 1, 0},
};

static uint64_t seed = 1;
static uint64_t next_random(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    return seed ^= seed << 17;
}

static void fail(const char *what)
{
    printf("diskbench: %s: %s\n", what, strerror(errno));
    exit(1);
}

static double seconds(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static uint64_t run(int fd, const struct workload *w, int count, uint64_t disk_size, char *buffers)
{
    aio_context_t context = 0;
    if (syscall(SYS_io_setup, w->depth, &context) < 0)
        fail("io_setup");
    struct iocb blocks[MAXIMUM_DEPTH];
    struct io_event events[MAXIMUM_DEPTH];
    uint64_t sum = 0;
    int submitted = 0, done = 0, idle[MAXIMUM_DEPTH], idle_count = 0;
    for (int i = 0; i < w->depth; i++)
        idle[idle_count++] = i;
    while (done < count) {
        struct iocb *list[MAXIMUM_DEPTH];
        int n = 0;
        while (idle_count > 0 && submitted < count) {
            int slot = idle[--idle_count];
            char *buffer = buffers + (size_t)slot * MAXIMUM_SIZE;
            uint64_t place = w->is_random ? next_random() % (disk_size / w->size) : submitted % (disk_size / w->size);
            if (w->is_write)
                *(uint64_t *)buffer = place * 0x9E3779B97F4A7C15;
            memset(&blocks[slot], 0, sizeof blocks[slot]);
            blocks[slot].aio_fildes = fd;
            blocks[slot].aio_lio_opcode = w->is_write ? IOCB_CMD_PWRITE : IOCB_CMD_PREAD;
            blocks[slot].aio_buf = (uintptr_t)buffer;
            blocks[slot].aio_nbytes = w->size;
            blocks[slot].aio_offset = place * w->size;
            blocks[slot].aio_data = slot;
            list[n++] = &blocks[slot];
            submitted++;
        }
        if (n > 0 && syscall(SYS_io_submit, context, n, list) != n)
            fail("io_submit");
        int got = syscall(SYS_io_getevents, context, 1, w->depth, events, NULL);
        if (got < 1)
            fail("io_getevents");
        for (int i = 0; i < got; i++) {
            if (events[i].res != w->size)
                fail("a request");
            int slot = events[i].data;
            sum += *(uint64_t *)(buffers + (size_t)slot * MAXIMUM_SIZE);
            idle[idle_count++] = slot;
        }
        done += got;
    }
    if (w->is_write && fdatasync(fd) < 0)
        fail("fdatasync");
    syscall(SYS_io_destroy, context);
    return sum;
}

int main(int argc, char **argv)
{
    setvbuf(stdout, NULL, _IONBF, 0);
    if (argc < 3) {
        fputs("usage: diskbench DEVICE NAME...\n", stderr);
        return 2;
    }
    int fd = open(argv[1], O_RDWR | O_DIRECT);
    uint64_t size;
    if (fd < 0 || ioctl(fd, BLKGETSIZE64, &size) < 0)
        fail(argv[1]);
    char *buffers;
    if (posix_memalign((void **)&buffers, 4096, (size_t)MAXIMUM_DEPTH * MAXIMUM_SIZE))
        fail("memory");
    memset(buffers, 0x5A, (size_t)MAXIMUM_DEPTH * MAXIMUM_SIZE);
    for (int i = 2; i < argc; i++) {
        const struct workload *w = NULL;
        for (size_t k = 0; k < sizeof workloads / sizeof *workloads; k++)
            if (!strcmp(argv[i], workloads[k].name))
                w = &workloads[k];
        if (!w) {
            printf("diskbench: no workload %s\n", argv[i]);
            return 2;
        }
        run(fd, w, w->count / 10, size, buffers); // what is done first only
        printf("> %s\n", w->name);
        double began = seconds(CLOCK_MONOTONIC), cpu = seconds(CLOCK_PROCESS_CPUTIME_ID);
        uint64_t sum = run(fd, w, w->count, size, buffers);
        double wall = seconds(CLOCK_MONOTONIC) - began;
        cpu = seconds(CLOCK_PROCESS_CPUTIME_ID) - cpu;
        puts("<");
        printf("%s %d ops chk=%016llx ms=%.2f cpu=%.2f\n", w->name, w->count, (unsigned long long)sum, wall * 1e3, cpu * 1e3);
    }
    puts("DONE");
    return 0;
}
