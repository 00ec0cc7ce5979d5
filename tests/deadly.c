/* Kills the process at the n-th change that it makes to a DuckDB file: before it, half way, or after.

   Preloaded, it stands before the calls by which a file is changed. `arm` says when to die. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <sys/types.h>

enum { BEFORE, TORN, AFTER };

static atomic_long left = 0;
static atomic_long seen = 0;
static int how = BEFORE;

void arm(long at, int way) { seen = 0; how = way; left = at; }
long changes(void) { return seen; }

static void die(void) { kill(getpid(), SIGKILL); for (;;) pause(); }

static int about_duckdb(const char *path) { return strstr(path, ".duckdb") != NULL; }

static int ours(int fd) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return about_duckdb(path);
}

/* Whether this change is the one to die at. */
static int due(int is_ours) {
    if (!is_ours) return 0;
    atomic_fetch_add(&seen, 1);
    return left > 0 && atomic_fetch_sub(&left, 1) == 1;
}

#define REAL(name) __typeof__(&name) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)
#define CHANGE(is_ours, whole, half) \
    if (!due(is_ours)) return whole; \
    if (how == TORN) { (void)!half; } \
    if (how == AFTER) { (void)!whole; } \
    die(); \
    return -1

ssize_t pwrite(int fd, const void *data, size_t size, off_t at) {
    REAL(pwrite); CHANGE(ours(fd), real(fd, data, size, at), real(fd, data, size / 2, at));
}
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) {
    REAL(pwrite64); CHANGE(ours(fd), real(fd, data, size, at), real(fd, data, size / 2, at));
}
ssize_t write(int fd, const void *data, size_t size) {
    REAL(write); CHANGE(ours(fd), real(fd, data, size), real(fd, data, size / 2));
}
int fsync(int fd) { REAL(fsync); CHANGE(ours(fd), real(fd), 0); }
int fdatasync(int fd) { REAL(fdatasync); CHANGE(ours(fd), real(fd), 0); }
int ftruncate(int fd, off_t size) { REAL(ftruncate); CHANGE(ours(fd), real(fd, size), 0); }
int ftruncate64(int fd, off64_t size) { REAL(ftruncate64); CHANGE(ours(fd), real(fd, size), 0); }
int unlink(const char *path) { REAL(unlink); CHANGE(about_duckdb(path), real(path), 0); }
int remove(const char *path) { REAL(remove); CHANGE(about_duckdb(path), real(path), 0); }
int rename(const char *old, const char *new) {
    REAL(rename); CHANGE(about_duckdb(old), real(old, new), 0);
}
