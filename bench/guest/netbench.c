// Moves data over TCP to and from the server of bench/net, and counts connections and round trips.
//
//   netbench ADDRESS PORT IPERF-PORT NAME...     NAME: see below
//
// Speaks bench/compare's protocol: "> NAME", "<", then a line with a checksum and what the guest's clock says. A request
// is a letter and 8 bytes of length: D, the server sends so much; U, it takes so much and answers with a byte; E, it
// sends every byte back. P and Q are D and U with a pattern that both sides know and check, M is many E at once.
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static const struct workload {
    const char *name;
    char kind;
    int streams;
    uint64_t amount; // bytes of each stream, connections or round trips
} workloads[] = {
    {"download", 'D', 1, 512 << 20}, {"download8", 'D', 8, 64 << 20}, {"upload", 'U', 1, 512 << 20},
    {"upload8", 'U', 8, 64 << 20},   {"connect", 'C', 1, 2000},      {"roundtrip", 'E', 1, 5000},
    {"iperf_r", 'r', 1, 512 << 20},  {"iperf_r8", 'r', 8, 64 << 20}, {"iperf", 'i', 1, 512 << 20}, {"iperf_8", 'i', 8, 64 << 20},
    {"download_checked", 'P', 1, 1 << 30}, {"upload_checked", 'Q', 1, 1 << 30}, {"ten_thousand", 'M', 1, 10000},
};

static struct sockaddr_in server;
static char buffer[256 << 10];
static const char *address, *iperf_port;

enum { PERIOD = 1000003 }; // a prime: no two blocks that could be exchanged look the same
static char pattern[PERIOD + sizeof buffer];

static void fail(const char *what)
{
    printf("netbench: %s: %s\n", what, strerror(errno));
    exit(1);
}

static double now(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static void all(ssize_t (*move)(int, char *, size_t), int fd, char *data, uint64_t count)
{
    while (count > 0) {
        ssize_t n = move(fd, data, count < sizeof buffer ? count : sizeof buffer);
        if (n <= 0)
            fail("the connection");
        count -= n;
    }
}
static ssize_t take(int fd, char *data, size_t count) { return read(fd, data, count); }
static ssize_t give(int fd, char *data, size_t count) { return write(fd, data, count); }

static int request(char kind, uint64_t length)
{
    int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    if (fd < 0 || connect(fd, (struct sockaddr *)&server, sizeof server) < 0)
        fail("connect");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    char head[9] = {kind};
    memcpy(head + 1, &length, 8);
    all(give, fd, head, sizeof head);
    return fd;
}

static void make_pattern(void)
{
    uint32_t x = 1;
    for (size_t i = 0; i < sizeof pattern; i++) {
        if (i % PERIOD == 0)
            x = 1;
        x = x * 1103515245 + 12345;
        pattern[i] = x >> 16;
    }
}

// Every byte of a long transfer.
static void checked(char kind, uint64_t amount)
{
    int fd = request(kind, amount);
    for (uint64_t at = 0; at < amount;) {
        size_t count = amount - at < sizeof buffer ? amount - at : sizeof buffer;
        char *expected = pattern + at % PERIOD;
        ssize_t n = kind == 'P' ? read(fd, buffer, count) : write(fd, expected, count);
        if (n <= 0)
            fail("the connection");
        if (kind == 'P' && memcmp(buffer, expected, n)) {
            printf("netbench: wrong data at %llu\n", (unsigned long long)at);
            exit(1);
        }
        at += n;
    }
    char answer;
    if (kind == 'Q' && (read(fd, &answer, 1) != 1 || answer != 'x')) {
        puts("netbench: the server got other data");
        exit(1);
    }
    close(fd);
}

// So many connections, all open at the same time; each sends twice and gets back what it sent.
static void many(uint64_t count)
{
    struct rlimit limit = {count + 100, count + 100};
    setrlimit(RLIMIT_NOFILE, &limit);
    int *fds = malloc(count * sizeof *fds);
    char out[64], in[64];
    for (uint64_t i = 0; i < count; i++)
        fds[i] = request('E', 1);
    for (int round = 0; round < 2; round++) {
        for (uint64_t i = 0; i < count; i++)
            all(give, fds[i], memcpy(out, pattern + (i * 64 + round) % PERIOD, 64), 64);
        for (uint64_t i = 0; i < count; i++) {
            all(take, fds[i], in, 64);
            if (memcmp(in, pattern + (i * 64 + round) % PERIOD, 64)) {
                printf("netbench: connection %llu got data of another\n", (unsigned long long)i);
                exit(1);
            }
        }
    }
    for (uint64_t i = 0; i < count; i++)
        close(fds[i]);
    free(fds);
}

static void iperf(const struct workload *w, uint64_t amount)
{
    char bytes[32], streams[8];
    snprintf(bytes, sizeof bytes, "%llu", (unsigned long long)amount * w->streams);
    snprintf(streams, sizeof streams, "%d", w->streams);
    if (fork() == 0) {
        dup2(open("/tmp/iperf.log", O_WRONLY | O_CREAT | O_TRUNC, 0600), 1);
        execl("/usr/bin/iperf3", "iperf3", "-c", address, "-p", iperf_port, "-n", bytes, "-P", streams, w->kind == 'r' ? "-R" : NULL, NULL);
        _exit(127);
    }
    int status;
    if (wait(&status) < 0 || status != 0) {
        char line[256];
        FILE *log = fopen("/tmp/iperf.log", "r");
        while (log && fgets(line, sizeof line, log))
            fputs(line, stdout);
        fail("iperf3");
    }
}

static void run(const struct workload *w, uint64_t amount)
{
    char byte = 'x';
    if (w->kind == 'P' || w->kind == 'Q') {
        checked(w->kind, amount);
        return;
    }
    if (w->kind == 'M') {
        many(amount);
        return;
    }
    if (w->kind == 'C') {
        for (uint64_t i = 0; i < amount; i++) {
            int fd = request('E', 1);
            all(give, fd, &byte, 1);
            all(take, fd, &byte, 1);
            close(fd);
        }
        return;
    }
    int fd = request(w->kind, amount);
    if (w->kind == 'D') {
        all(take, fd, buffer, amount);
    } else if (w->kind == 'U') {
        all(give, fd, buffer, amount);
        all(take, fd, &byte, 1);
    } else {
        for (uint64_t i = 0; i < amount; i++) {
            all(give, fd, &byte, 1);
            all(take, fd, &byte, 1);
        }
    }
    close(fd);
}

static void run_all(const struct workload *w, uint64_t amount)
{
    if (w->kind == 'r' || w->kind == 'i') {
        iperf(w, amount);
        return;
    }
    if (w->streams == 1) {
        run(w, amount);
        return;
    }
    for (int i = 0; i < w->streams; i++)
        if (fork() == 0) {
            run(w, amount);
            _exit(0);
        }
    for (int i = 0; i < w->streams; i++) {
        int status;
        if (wait(&status) < 0 || status != 0)
            fail("a stream");
    }
}

int main(int argc, char **argv)
{
    setvbuf(stdout, NULL, _IONBF, 0);
    if (argc < 5) {
        fputs("usage: netbench ADDRESS PORT IPERF-PORT NAME...\n", stderr);
        return 2;
    }
    address = argv[1];
    iperf_port = argv[3];
    make_pattern();
    server.sin_family = AF_INET;
    server.sin_port = htons(atoi(argv[2]));
    inet_aton(argv[1], &server.sin_addr);
    for (int i = 4; i < argc; i++) {
        const struct workload *w = NULL;
        for (size_t k = 0; k < sizeof workloads / sizeof *workloads; k++)
            if (!strcmp(argv[i], workloads[k].name))
                w = &workloads[k];
        if (!w) {
            printf("netbench: no workload %s\n", argv[i]);
            return 2;
        }
        run_all(w, w->amount / 10); // what is done first only
        printf("> %s\n", w->name);
        double began = now(CLOCK_MONOTONIC), cpu = now(CLOCK_PROCESS_CPUTIME_ID);
        run_all(w, w->amount);
        double wall = now(CLOCK_MONOTONIC) - began;
        cpu = now(CLOCK_PROCESS_CPUTIME_ID) - cpu;
        puts("<");
        printf("%s %llu chk=%016x ms=%.2f cpu=%.2f\n", w->name, (unsigned long long)w->amount * w->streams, w->streams, wall * 1e3, cpu * 1e3);
    }
    puts("DONE");
    return 0;
}
