/*
 * The raw loops of bench/vlfs.ts, one a process: client ROW DIR [ARGUMENT]... prints {"ops":N,"ns":T,"cpu_us":C,"server_us":S}, the time of the
 * loop only and the processor time in it of this process, and of the one whose id is in SERVER. A failed call ends it with a message and status 1.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static char buffer[1 << 17];

/* Rows of reads end after this time: short enough for slow peers, long enough to tell fast ones apart. */
#define ROW_NS 1000000000LL

static void fail(const char *what, const char *path) {
  fprintf(stderr, "%s %s: %s\n", what, path, strerror(errno));
  exit(1);
}

static long long now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000000000LL + t.tv_nsec;
}

/* Processor time of all threads of the server, from the scheduler's own figures. */
static long long server_us(void) {
  const char *pid = getenv("SERVER");
  char path[PATH_MAX];
  if (pid == NULL) return 0;
  snprintf(path, sizeof path, "/proc/%s/task", pid);
  DIR *tasks = opendir(path);
  if (tasks == NULL) fail("open", path);
  long long total = 0;
  for (struct dirent *e; (e = readdir(tasks)) != NULL;) {
    if (e->d_name[0] == '.') continue;
    snprintf(path, sizeof path, "/proc/%s/task/%s/schedstat", pid, e->d_name);
    FILE *file = fopen(path, "r");
    long long ran;
    if (file == NULL) continue;
    if (fscanf(file, "%lld", &ran) == 1) total += ran;
    fclose(file);
  }
  closedir(tasks);
  return total / 1000;
}

static long long cpu_us(void) {
  struct rusage u;
  getrusage(RUSAGE_SELF, &u);
  return (u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1000000LL + u.ru_utime.tv_usec + u.ru_stime.tv_usec;
}

static long long began_ns, began_cpu, began_server;

static void begin(void) {
  began_server = server_us();
  began_cpu = cpu_us();
  began_ns = now_ns();
}

static void report(long ops) {
  long long ns = now_ns() - began_ns;
  long long used = cpu_us() - began_cpu;
  printf("{\"ops\":%ld,\"ns\":%lld,\"cpu_us\":%lld,\"server_us\":%lld}\n", ops, ns, used, server_us() - began_server);
}

/* Paths of all regular files below a directory, gathered before the clock starts. */
static char **files;
static long file_count, file_room;

/* readdir and lstat of every entry, as du and find -ls do. */
static long walk(int parent, const char *name, const char *path, int gather) {
  int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) fail("open", path);
  DIR *dir = fdopendir(fd);
  long count = 0;
  for (struct dirent *e; (e = readdir(dir)) != NULL;) {
    if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0) continue;
    struct stat st;
    if (fstatat(fd, e->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0) fail("lstat", e->d_name);
    count++;
    int is_dir = S_ISDIR(st.st_mode);
    if (!is_dir && !(gather && S_ISREG(st.st_mode))) continue;
    char below[PATH_MAX];
    snprintf(below, sizeof below, "%s/%s", path, e->d_name);
    if (is_dir) {
      count += walk(fd, e->d_name, below, gather);
      continue;
    }
    if (st.st_size > 1 << 20) continue;
    if (file_count == file_room) files = realloc(files, (file_room = file_room * 2 + 1024) * sizeof *files);
    files[file_count++] = strdup(below);
  }
  closedir(dir);
  return count;
}

static char *numbered(const char *dir, const char *prefix, long i) {
  static char paths[2][PATH_MAX];
  static int turn;
  char *path = paths[turn ^= 1];
  snprintf(path, PATH_MAX, "%s/%s%ld", dir, prefix, i);
  return path;
}

/* Opens, reads up to 16 KiB and closes every file of the list. */
static void read_all(void) {
  for (long i = 0; i < file_count; i++) {
    int fd = open(files[i], O_RDONLY);
    if (fd < 0) fail("open", files[i]);
    if (read(fd, buffer, 16384) < 0) fail("read", files[i]);
    close(fd);
  }
}

/* Latencies of one kind of operation, in microseconds. */
struct latencies {
  const char *name;
  long count, room, over;
  float *us;
};

static int by_value(const void *a, const void *b) {
  float x = *(const float *)a, y = *(const float *)b;
  return x < y ? -1 : x > y;
}

static void add_latency(struct latencies *l, long long began) {
  float us = (now_ns() - began) / 1000.0;
  if (l->count == l->room) l->us = realloc(l->us, (l->room = l->room * 2 + 4096) * sizeof *l->us);
  if (us > 10000) l->over++;
  l->us[l->count++] = us;
}

/* A library of a megabyte: every page of it through a new mapping. */
static void touch_map(const char *path) {
  int fd = open(path, O_RDONLY);
  if (fd < 0) fail("open", path);
  off_t size = lseek(fd, 0, SEEK_END);
  volatile char *at = mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0);
  if (at == MAP_FAILED) fail("mmap", path);
  for (off_t i = 0; i < size; i += 4096) (void)at[i];
  munmap((void *)at, size);
  close(fd);
}

static void start_program(const char *program) {
  int status;
  pid_t child = vfork();
  if (child == 0) {
    execl(program, program, (char *)NULL);
    _exit(127);
  }
  if (child < 0 || waitpid(child, &status, 0) < 0 || status != 0) fail("start", program);
}

/* What the probe times: system calls each by itself, and what programs make of several. */
enum { STAT, OPEN, READ, CLOSE, OPENDIR, GETDENTS, CREATE, WRITE, UNLINK, WHOLE_FILE, WHOLE_LIST, WHOLE_CREATE, WHOLE_MAP, WHOLE_EXEC, KINDS };
static struct latencies timed[KINDS] = {
  {"stat"}, {"open"}, {"read"}, {"close"}, {"open a directory"}, {"getdents64"}, {"create"}, {"write"}, {"unlink"},
  {"open+read+close"}, {"list"}, {"create+write+unlink"}, {"map"}, {"exec"},
};

/* One system call, timed. */
#define TIMED(kind, call) \
  ({ \
    long long call_began = now_ns(); \
    long call_result = (call); \
    int call_errno = errno; \
    add_latency(&timed[kind], call_began); \
    errno = call_errno; \
    call_result; \
  })

static void probe_file(const char *file) {
  long long began = now_ns();
  int fd = TIMED(OPEN, open(file, O_RDONLY));
  if (fd >= 0) {
    if (TIMED(READ, read(fd, buffer, 16384)) < 0) fail("read", file);
    TIMED(CLOSE, close(fd));
  } else if (errno != ENOENT) fail("open", file);
  add_latency(&timed[WHOLE_FILE], began);
}

static void probe_list(const char *path) {
  long long began = now_ns();
  int fd = TIMED(OPENDIR, open(path, O_RDONLY | O_DIRECTORY));
  if (fd < 0) fail("opendir", path);
  long got;
  /* As much at a time as the C library asks for. */
  while ((got = TIMED(GETDENTS, syscall(SYS_getdents64, fd, buffer, 32768))) > 0);
  if (got < 0) fail("getdents64", path);
  TIMED(CLOSE, close(fd));
  add_latency(&timed[WHOLE_LIST], began);
}

static void probe_create(const char *own) {
  long long began = now_ns();
  int fd = TIMED(CREATE, open(own, O_CREAT | O_EXCL | O_WRONLY, 0644));
  if (fd < 0 || TIMED(WRITE, write(fd, buffer, 1000)) != 1000 || TIMED(CLOSE, close(fd)) < 0 || TIMED(UNLINK, unlink(own)) < 0)
    fail("create", own);
  add_latency(&timed[WHOLE_CREATE], began);
}

/* Every operation in turn for `ms` milliseconds, each timed by itself; any error ends it. */
static void probe(const char *dir, long ms) {
  char own[PATH_MAX], program[PATH_MAX], library[PATH_MAX];
  snprintf(own, sizeof own, "%s/probe-%d", dir, getpid());
  snprintf(program, sizeof program, "%s/usr/bin/probe-true", dir);
  snprintf(library, sizeof library, "%s/usr/lib/probe-library", dir);
  walk(AT_FDCWD, dir, dir, 1);
  puts("ready");
  fflush(stdout);
  long long end = now_ns() + ms * 1000000LL;
  for (unsigned long i = 0; now_ns() < end; i++) {
    const char *file = files[(i * 7919) % file_count];
    struct stat st;
    if (TIMED(STAT, lstat(file, &st)) < 0 && errno != ENOENT) fail("stat", file);
    probe_file(file);
    if (i % 8 == 0) {
      char parent[PATH_MAX];
      snprintf(parent, sizeof parent, "%.*s", (int)(strrchr(file, '/') - file), file);
      probe_list(parent);
      probe_create(own);
    }
    usleep(200);
    if (i % 64 == 0) {
      long long began = now_ns();
      touch_map(library);
      add_latency(&timed[WHOLE_MAP], began);
      began = now_ns();
      start_program(program);
      add_latency(&timed[WHOLE_EXEC], began);
    }
  }
  printf("{");
  for (int k = 0; k < KINDS; k++) {
    struct latencies *l = &timed[k];
    qsort(l->us, l->count, sizeof *l->us, by_value);
    printf("%s\"%s\":{\"count\":%ld,\"p50\":%.1f,\"p99\":%.1f,\"p999\":%.1f,\"max\":%.1f,\"over10ms\":%ld,\"calls\":%d}", k ? "," : "", l->name,
           l->count, l->us[l->count / 2], l->us[l->count * 99 / 100], l->us[l->count * 999 / 1000], l->us[l->count - 1], l->over, k < WHOLE_FILE);
  }
  printf("}\n");
}

/* Programs beside a probe until they are killed, each at work a small part of the time: a writer, a reader, one that maps, one that starts programs. */
static void load(const char *dir) {
  char program[PATH_MAX], library[PATH_MAX], own[PATH_MAX], moved[PATH_MAX];
  snprintf(program, sizeof program, "%s/usr/bin/probe-true", dir);
  snprintf(library, sizeof library, "%s/usr/lib/probe-library", dir);
  snprintf(own, sizeof own, "%s/load-%d", dir, getpid());
  snprintf(moved, sizeof moved, "%s/moved-%d", dir, getpid());
  int kind = 0;
  while (kind < 3 && fork() != 0) kind++;
  for (unsigned long i = 0;; i++) {
    char path[PATH_MAX];
    int fd;
    switch (kind) {
    case 0:
      fd = open(own, O_CREAT | O_WRONLY | O_APPEND, 0644);
      if (fd < 0 || write(fd, buffer, 4096) != 4096 || close(fd) < 0) fail("append", own);
      if (i % 16 == 0 && (rename(own, moved) < 0 || unlink(moved) < 0)) fail("rename", own);
      break;
    case 1:
      snprintf(path, sizeof path, "%s/usr/lib/system/lib%lu-%lu.so", dir, i * 7919 % 400, i % 10);
      fd = open(path, O_RDONLY);
      if (fd < 0 || read(fd, buffer, 16384) < 0 || close(fd) < 0) fail("read", path);
      break;
    case 2:
      touch_map(library);
      break;
    default:
      if (i % 4 == 0) start_program(program);
      /* One of the others failed. */
      if (waitpid(-1, NULL, WNOHANG) > 0) exit(1);
    }
    usleep(2000);
  }
}

int main(int argc, char **argv) {
  if (argc < 3) return 2;
  const char *row = argv[1], *dir = argv[2];
  long n = argc > 3 ? atol(argv[3]) : 0;
  if (strcmp(row, "absent") == 0) {
    struct stat st;
    begin();
    for (long i = 0; i < n; i++)
      if (lstat(numbered(dir, argv[4], i), &st) == 0) return 1;
    report(n);
  } else if (strcmp(row, "find") == 0) {
    begin();
    report(walk(AT_FDCWD, dir, dir, 0));
  } else if (strcmp(row, "read-files") == 0) {
    walk(AT_FDCWD, dir, dir, 1);
    for (long pass = 1; pass < n; pass++) read_all();
    begin();
    read_all();
    report(file_count);
  } else if (strcmp(row, "create") == 0) {
    begin();
    for (long i = 0; i < n; i++) {
      char *path = numbered(dir, "file-", i);
      int fd = open(path, O_CREAT | O_EXCL | O_WRONLY, 0644);
      if (fd < 0) fail("create", path);
      if (write(fd, buffer, 1024) != 1024) fail("write", path);
      close(fd);
    }
    report(n);
  } else if (strcmp(row, "stat") == 0) {
    struct stat st;
    begin();
    for (long i = 0; i < n; i++)
      if (lstat(numbered(dir, "file-", i), &st) < 0) fail("lstat", dir);
    report(n);
  } else if (strcmp(row, "rename") == 0) {
    begin();
    for (long i = 0; i < n; i++)
      if (rename(numbered(dir, "file-", i), numbered(dir, "moved-", i)) < 0) fail("rename", dir);
    report(n);
  } else if (strcmp(row, "unlink") == 0) {
    begin();
    for (long i = 0; i < n; i++)
      if (unlink(numbered(dir, "moved-", i)) < 0) fail("unlink", dir);
    report(n);
  } else if (strcmp(row, "sequential") == 0) {
    /* Once to fill the page cache, then again and again for a second, or n times. */
    int fd = open(dir, O_RDONLY);
    if (fd < 0) fail("open", dir);
    long long bytes = 0;
    for (long pass = 0; pass < 2 || (pass <= n && now_ns() - began_ns < ROW_NS); pass++) {
      if (pass == 1) begin();
      lseek(fd, 0, SEEK_SET);
      if (pass < 2) bytes = 0;
      for (ssize_t got; (got = read(fd, buffer, sizeof buffer)) > 0;) bytes += got;
    }
    report(bytes >> 20);
  } else if (strcmp(row, "read-once") == 0) {
    int fd = open(dir, O_RDONLY);
    if (fd < 0) fail("open", dir);
    long long bytes = 0;
    begin();
    for (ssize_t got; (got = read(fd, buffer, sizeof buffer)) > 0;) bytes += got;
    report(bytes >> 20);
  } else if (strcmp(row, "map") == 0) {
    /* One byte of every page, through a private mapping. */
    int fd = open(dir, O_RDONLY);
    if (fd < 0) fail("open", dir);
    off_t size = lseek(fd, 0, SEEK_END);
    begin();
    volatile char *at = mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (at == MAP_FAILED) fail("mmap", dir);
    for (off_t i = 0; i < size; i += 4096) (void)at[i];
    report(size >> 20);
  } else if (strcmp(row, "start") == 0) {
    /* Starts the program at DIR n times. */
    int status;
    begin();
    for (long i = 0; i < n; i++) {
      pid_t child = fork();
      if (child == 0) {
        dup2(2, 1);
        execv(dir, argv + 3);
        fail("start", dir);
      }
      if (child < 0 || waitpid(child, &status, 0) < 0 || status != 0) fail("start", dir);
    }
    report(n);
  } else if (strcmp(row, "probe") == 0) {
    probe(dir, n);
  } else if (strcmp(row, "load") == 0) {
    load(dir);
  } else if (strcmp(row, "random") == 0) {
    int fd = open(dir, O_RDONLY);
    if (fd < 0) fail("open", dir);
    off_t blocks = lseek(fd, 0, SEEK_END) / 4096;
    uint64_t state = 88172645463325252ULL;
    begin();
    long done = 0;
    for (; done < n && (done % 1024 != 0 || now_ns() - began_ns < ROW_NS); done++) {
      state ^= state << 13, state ^= state >> 7, state ^= state << 17;
      if (pread(fd, buffer, 4096, (off_t)(state % blocks) * 4096) != 4096) fail("pread", dir);
    }
    report(done);
  } else if (strcmp(row, "write") == 0) {
    char *path = numbered(dir, "large-", 0);
    int fd = open(path, O_CREAT | O_TRUNC | O_WRONLY, 0644);
    if (fd < 0) fail("create", path);
    begin();
    for (long i = 0; i < n * 8; i++)
      if (write(fd, buffer, sizeof buffer) != sizeof buffer) fail("write", path);
    report(n);
    close(fd);
    unlink(path);
  } else if (strcmp(row, "first-write") == 0) {
    begin();
    int fd = open(dir, O_RDWR);
    if (fd < 0) fail("open", dir);
    if (pwrite(fd, "x", 1, 1 << 20) != 1) fail("write", dir);
    close(fd);
    report(1);
  } else if (strcmp(row, "run") == 0) {
    /* A program with its arguments, in DIR; its output goes to stderr. */
    begin();
    int status;
    pid_t child = fork();
    if (child == 0) {
      dup2(2, 1);
      if (chdir(argv[2]) < 0) fail("run", argv[2]);
      execvp(argv[3], argv + 3);
      fail("run", argv[3]);
    }
    if (child < 0 || waitpid(child, &status, 0) < 0 || status != 0) fail("run", argv[3]);
    struct rusage u;
    getrusage(RUSAGE_CHILDREN, &u);
    began_cpu -= (u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1000000LL + u.ru_utime.tv_usec + u.ru_stime.tv_usec;
    report(1);
  } else
    return 2;
  return 0;
}
