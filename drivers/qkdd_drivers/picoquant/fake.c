// A library with the functions of PicoQuant's MHLib, HHLib and PH330Lib, for tests: compiled with -DNAME(x)=MH_##x.
// The instrument behind it is the file `instrument` beside the library, mapped into every process that loads it and into the
// simulator (sim.py, which has the same layout); faults are words in it. Records come from the simulator's feed, or, at a
// rate that no Python source reaches, from a generator in here.

#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#ifndef NAME
#define NAME(x) MH_##x
#endif
#ifndef LEVEL_MAX
#define LEVEL_MAX 1200
#endif
#ifndef READ_MAX
#define READ_MAX 1048576
#endif

enum { CHANNELS = 65, WRAP_BITS = 25, FIFO_RECORDS = 1 << 27 };
enum { NO_DEVICE = -1, BUSY = -2, NOT_OPEN = -10, BAD_ARGUMENT = -17 };
enum { FIFO_FULL = 2, SYNC_LOST = 4 };

struct instrument {
    uint32_t magic, present, hang, late_us, wrong, refuse, garbage, overrun, crash;
    uint32_t inputs, owner, measuring, starts, feed_size;
    double resolution_ps;
    uint64_t generate;  // records a second; 0: the feed; UINT64_MAX: as fast as they are read
    _Atomic uint64_t head, tail;  // of the feed, in records
    char serial[16], model[32], part[16], version[16];
    int32_t level[CHANNELS], edge[CHANNELS], offset[CHANNELS], dead[CHANNELS], rate[CHANNELS];
};
enum { FEED_AT = 8192 };

static volatile struct instrument *self;
static uint32_t *feed;
static uint64_t produced, ticks, noise = 88172645463325252u;
static struct timespec began;

static volatile struct instrument *
instrument(void) {
    if (self != NULL) {
        return self;
    }
    Dl_info info;
    char path[4096];
    if (dladdr((void *)instrument, &info) == 0 || strlen(info.dli_fname) > sizeof path - 16) {
        return NULL;
    }
    strcpy(path, info.dli_fname);
    char *slash = strrchr(path, '/');
    strcpy(slash == NULL ? path : slash + 1, "instrument");
    int fd = open(path, O_RDWR | O_CLOEXEC);
    struct stat about;
    if (fd < 0) {
        return NULL;
    }
    if (fstat(fd, &about) == 0 && about.st_size > FEED_AT) {
        void *memory = mmap(NULL, (size_t)about.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (memory != MAP_FAILED) {
            feed = (uint32_t *)((char *)memory + FEED_AT);
            self = memory;
        }
    }
    close(fd);
    return self;
}

// What every call does first: 0, or the error that it returns.
static int
enter(int device, int must_be_open) {
    volatile struct instrument *it = instrument();
    if (it == NULL) {
        return NO_DEVICE;
    }
    while (it->hang) {
        usleep(1000);
    }
    if (it->crash) {
        fprintf(stderr, "fake library: crash was asked for\n");
        abort();
    }
    if (it->late_us) {
        usleep(it->late_us);
    }
    if (!it->present || device != 0) {
        return NO_DEVICE;
    }
    return must_be_open && it->owner != (uint32_t)getpid() ? NOT_OPEN : 0;
}

#define ENTER(device)                \
    int failed = enter((device), 1); \
    if (failed) {                    \
        return failed;               \
    }

#define ENTER_SET(device)     \
    ENTER(device)             \
    if (self->refuse) {       \
        return BAD_ARGUMENT;  \
    }

static void
copy_text(char *to, volatile const char *from, size_t room) {
    size_t i = 0;
    for (; i + 1 < room && from[i]; ++i) {
        to[i] = from[i];
    }
    to[i] = 0;
}

int
NAME(GetLibraryVersion)(char *version) {
    strcpy(version, "3.1");
    return 0;
}

int
NAME(GetErrorString)(char *text, int code) {
    const char *known = code == NO_DEVICE      ? "ERROR_DEVICE_OPEN_FAIL"
                        : code == BUSY         ? "ERROR_DEVICE_BUSY"
                        : code == NOT_OPEN     ? "ERROR_DEVICE_NOT_OPEN"
                        : code == BAD_ARGUMENT ? "ERROR_INVALID_ARGUMENT"
                                               : "ERROR_UNKNOWN";
    strcpy(text, known);
    return 0;
}

int
NAME(OpenDevice)(int device, char *serial) {
    int failed = enter(device, 0);
    if (failed) {
        return failed;
    }
    uint32_t owner = self->owner;
    if (owner != 0 && owner != (uint32_t)getpid() && kill((pid_t)owner, 0) == 0) {
        return BUSY;
    }
    self->owner = (uint32_t)getpid();
    self->measuring = 0;
    copy_text(serial, self->serial, 8);
    return 0;
}

int
NAME(CloseDevice)(int device) {
    ENTER(device)
    self->measuring = 0;
    self->owner = 0;
    return 0;
}

int
NAME(Initialize)(int device, int mode, int reference) {
    ENTER(device)
    return (mode == 0 || mode == 2 || mode == 3) && reference >= 0 && reference <= 9 ? 0 : BAD_ARGUMENT;
}

int
NAME(GetHardwareInfo)(int device, char *model, char *part, char *version) {
    ENTER(device)
    if (self->wrong) {
        strcpy(model, "Other Instrument");
    } else {
        copy_text(model, self->model, 24);
    }
    copy_text(part, self->part, 8);
    copy_text(version, self->version, 8);
    return 0;
}

int
NAME(GetSerialNumber)(int device, char *serial) {
    ENTER(device)
    copy_text(serial, self->serial, 8);
    return 0;
}

int
NAME(GetBaseResolution)(int device, double *resolution, int *steps) {
    ENTER(device)
    *resolution = self->resolution_ps;
    *steps = 24;
    return 0;
}

int
NAME(GetNumOfInputChannels)(int device, int *count) {
    ENTER(device)
    *count = (int)self->inputs;
    return 0;
}

static int
set(int device, volatile int32_t *table, int channel, int value, int low, int high) {
    ENTER_SET(device)
    if (channel < -1 || channel >= (int)self->inputs || value < low || value > high) {
        return BAD_ARGUMENT;
    }
    table[channel + 1] = value;
    return 0;
}

static int
set_trigger(int device, int channel, int level, int edge) {
    int failed = set(device, self->edge, channel, edge, 0, 1);
    return failed ? failed : set(device, self->level, channel, level, -LEVEL_MAX, LEVEL_MAX);
}

int
NAME(SetSyncDiv)(int device, int divider) {
    ENTER(device)
    return divider >= 1 && divider <= 16 ? 0 : BAD_ARGUMENT;
}

int
NAME(SetSyncTrgMode)(int device, int mode) {
    ENTER(device)
    return mode == 0 || mode == 1 ? 0 : BAD_ARGUMENT;
}

int
NAME(SetInputTrgMode)(int device, int channel, int mode) {
    ENTER(device)
    return channel >= 0 && channel < (int)self->inputs && (mode == 0 || mode == 1) ? 0 : BAD_ARGUMENT;
}

int
NAME(SetSyncEdgeTrg)(int device, int level, int edge) {
    return set_trigger(device, -1, level, edge);
}

int
NAME(SetInputEdgeTrg)(int device, int channel, int level, int edge) {
    return set_trigger(device, channel, level, edge);
}

int
NAME(SetSyncCFD)(int device, int level, int zero_cross) {
    int failed = set(device, self->edge, -1, zero_cross, 0, 40);
    return failed ? failed : set(device, self->level, -1, level, 0, 1000);
}

int
NAME(SetInputCFD)(int device, int channel, int level, int zero_cross) {
    int failed = set(device, self->edge, channel, zero_cross, 0, 40);
    return failed ? failed : set(device, self->level, channel, level, 0, 1000);
}

int
NAME(SetSyncChannelOffset)(int device, int ps) {
    return set(device, self->offset, -1, ps, -99999, 99999);
}

int
NAME(SetInputChannelOffset)(int device, int channel, int ps) {
    return set(device, self->offset, channel, ps, -99999, 99999);
}

int
NAME(SetSyncDeadTime)(int device, int on, int ps) {
    return set(device, self->dead, -1, on ? ps : 800, 800, 160000);
}

int
NAME(SetInputDeadTime)(int device, int channel, int on, int ps) {
    return set(device, self->dead, channel, on ? ps : 800, 800, 160000);
}

int
NAME(SetInputChannelEnable)(int device, int channel, int enable) {
    ENTER_SET(device)
    return channel >= 0 && channel < (int)self->inputs && (enable == 0 || enable == 1) ? 0 : BAD_ARGUMENT;
}

int
NAME(GetSyncRate)(int device, int *rate) {
    ENTER(device)
    *rate = self->rate[0];
    return 0;
}

int
NAME(GetCountRate)(int device, int channel, int *rate) {
    ENTER(device)
    if (channel < 0 || channel >= (int)self->inputs) {
        return BAD_ARGUMENT;
    }
    *rate = self->rate[channel + 1];
    return 0;
}

int
NAME(GetFlags)(int device, int *flags) {
    ENTER(device)
    *flags = (self->overrun ? FIFO_FULL : 0) | (self->rate[0] ? 0 : SYNC_LOST);
    return 0;
}

int
NAME(GetWarnings)(int device, int *warnings) {
    ENTER(device)
    *warnings = 0;
    return 0;
}

int
NAME(StartMeas)(int device, int milliseconds) {
    ENTER(device)
    if (self->measuring || milliseconds < 1 || milliseconds > 360000000) {
        return BAD_ARGUMENT;
    }
    produced = ticks = 0;
    clock_gettime(CLOCK_MONOTONIC, &began);
    atomic_store(&self->tail, atomic_load(&self->head));
    self->overrun = 0;
    self->starts = self->starts + 1;
    self->measuring = 1;
    return 0;
}

int
NAME(StopMeas)(int device) {
    ENTER(device)
    self->measuring = 0;
    return 0;
}

int
NAME(CTCStatus)(int device, int *ended) {
    ENTER(device)
    *ended = !self->measuring;
    return 0;
}

// Clicks with uniform steps around the mean, spread over the inputs; overflow records where the counter wraps.
static int
generate(uint32_t *to) {
    uint64_t rate = self->generate;
    uint64_t due = READ_MAX;
    uint64_t mean = 10000;  // units between two clicks when there is no pace
    if (rate != UINT64_MAX) {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        double seconds = (double)(now.tv_sec - began.tv_sec) + 1e-9 * (double)(now.tv_nsec - began.tv_nsec);
        uint64_t all = (uint64_t)(seconds * (double)rate);
        due = all - produced;
        if (due > FIFO_RECORDS) {
            self->overrun = 1;
        }
        due = due > READ_MAX ? READ_MAX : due;
        mean = (uint64_t)(1e12 / ((double)rate * self->resolution_ps));
    }
    uint64_t span = 2 * mean - 1, inputs = self->inputs, made = 0;
    uint32_t *at = to, *last = to + READ_MAX - 2;
    while (made < due && at < last) {
        noise ^= noise << 13;
        noise ^= noise >> 7;
        noise ^= noise << 17;
        uint64_t before = ticks >> WRAP_BITS;
        ticks += 1 + (((noise & 0xffffffffu) * span) >> 32);
        uint64_t wraps = (ticks >> WRAP_BITS) - before;
        if (wraps) {
            *at++ = (1u << 31) | (63u << WRAP_BITS) | (uint32_t)wraps;
        }
        uint32_t channel = (uint32_t)(((noise >> 32) * inputs) >> 32);
        *at++ = channel << WRAP_BITS | ((uint32_t)ticks & ((1u << WRAP_BITS) - 1));
        ++made;
    }
    produced += made;
    return (int)(at - to);
}

static int
read_records(int device, uint32_t *to, int room, int *count) {
    ENTER(device)
    *count = 0;
    if (room < READ_MAX) {
        return BAD_ARGUMENT;
    }
    if (self->garbage) {
        for (uint32_t i = 0; i < self->garbage && i < READ_MAX; ++i) {
            noise ^= noise << 13;
            noise ^= noise >> 7;
            noise ^= noise << 17;
            to[i] = (uint32_t)(noise >> 16);
        }
        *count = (int)self->garbage;
        self->garbage = 0;
        return 0;
    }
    if (!self->measuring) {
        return 0;
    }
    if (self->generate) {
        *count = generate(to);
        return 0;
    }
    uint64_t tail = atomic_load(&self->tail);
    uint64_t there = atomic_load(&self->head) - tail;
    uint64_t taken = there > READ_MAX ? READ_MAX : there;
    for (uint64_t i = 0; i < taken;) {
        uint64_t at = (tail + i) % self->feed_size;
        uint64_t piece = self->feed_size - at < taken - i ? self->feed_size - at : taken - i;
        memcpy(to + i, feed + at, piece * sizeof *to);
        i += piece;
    }
    atomic_store(&self->tail, tail + taken);
    *count = (int)taken;
    return 0;
}

#ifdef COUNTED
int
NAME(ReadFiFo)(int device, unsigned *buffer, int count, int *actual) {
    return read_records(device, buffer, count, actual);
}
#else
int
NAME(ReadFiFo)(int device, unsigned *buffer, int *actual) {
    return read_records(device, buffer, READ_MAX, actual);
}
#endif
