// Moves data over TCP to and from the server of bench/net, and counts connections and round trips.
//
//   netbench ADDRESS PORT NAME...     NAME: download download8 upload upload8 connect roundtrip
//
// Speaks bench/compare's protocol: "> NAME", "<", then a line with a checksum and what the guest's clock says. A request
// is a letter and 8 bytes of length: D, the server sends so much; U, it takes so much and answers with a byte; E, it
// sends every byte back.
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
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
};

static struct sockaddr_in server;
static char buffer[256 << 10];

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

static void run(const struct workload *w, uint64_t amount)
{
    char byte = 'x';
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
    if (argc < 4) {
        fputs("usage: netbench ADDRESS PORT NAME...\n", stderr);
        return 2;
    }
    server.sin_family = AF_INET;
    server.sin_port = htons(atoi(argv[2]));
    inet_aton(argv[1], &server.sin_addr);
    for (int i = 3; i < argc; i++) {
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
