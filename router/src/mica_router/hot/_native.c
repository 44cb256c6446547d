/* What is done for every read of a steady stream, as in plain.py, which says what each part is for and is what this must equal.
 *
 * The limited API of CPython 3.11, so that one library does for every later version. Errors of what is called are passed on. */
#define _GNU_SOURCE
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <structmember.h>
#include <sys/socket.h>
#include <time.h>

#define LONGEST 4096 /* core/chunks.py */
#define MOST_BOUNDS 16 /* plain.py */
#define LITERAL(text) (text), sizeof(text) - 1

typedef struct {
    PyObject_HEAD
    Py_ssize_t size;
    double total, bounds[MOST_BOUNDS];
    long long counts[MOST_BOUNDS + 1];
} Histogram;

typedef struct {
    PyObject_HEAD
    Py_ssize_t left;
    PyObject *parts;
} Reel;

typedef struct {
    PyObject_HEAD
    double heard_at;
    PyObject *clock, *gaps, *hear, *write, *closing, *queued; /* the last two are asked only with a file of 0 or more */
    int file;
} Passing;

typedef struct {
    PyObject_HEAD
    PyObject *short_way;
} Line;

static PyTypeObject *histogram_type;
static PyObject *monotonic, *ask_for_more, *long_way;

/* Objects that may be part of cycles, with `count` references from `offset` on. */

static PyObject **references(PyObject *self, size_t offset) {
    return (PyObject **)(void *)((char *)self + offset);
}

static int visit(PyObject *self, size_t offset, size_t count, visitproc visit, void *arg) {
    for (size_t at = 0; at < count; at++)
        Py_VISIT(references(self, offset)[at]);
    Py_VISIT(Py_TYPE(self));
    return 0;
}

static int clear(PyObject *self, size_t offset, size_t count) {
    for (size_t at = 0; at < count; at++)
        Py_CLEAR(references(self, offset)[at]);
    return 0;
}

static void end(PyObject *self, inquiry clear_it) {
    PyTypeObject *type = Py_TYPE(self);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    if (clear_it) {
        PyObject_GC_UnTrack(self);
        clear_it(self);
    }
    release(self);
    Py_DECREF(type);
}

#define COLLECTED(type, first, count) \
    static int type##_traverse(PyObject *self, visitproc each, void *arg) { \
        return visit(self, offsetof(type, first), count, each, arg); \
    } \
    static int type##_clear(PyObject *self) { return clear(self, offsetof(type, first), count); } \
    static void type##_end(PyObject *self) { end(self, type##_clear); }

COLLECTED(Reel, parts, 1)
COLLECTED(Passing, clock, 6)
COLLECTED(Line, short_way, 1)

/* Call with one argument; what is written in C, as nearly everything here, without what a call through the interpreter takes. */
static PyObject *tell(PyObject *what, PyObject *data) {
    PyObject *answer;
    Py_INCREF(what); /* what is called may put another in its place */
    if (PyCFunction_Check(what) && PyCFunction_GetFlags(what) == METH_O)
        answer = PyCFunction_GetFunction(what)(PyCFunction_GetSelf(what), data);
    else
        answer = PyObject_CallFunctionObjArgs(what, data, NULL);
    Py_DECREF(what);
    return answer;
}

/* Histogram. */

static PyObject *histogram_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(named)) {
    PyObject *bounds;
    if (!PyArg_ParseTuple(args, "O!:Histogram", &PyTuple_Type, &bounds))
        return NULL;
    Py_ssize_t size = PyTuple_Size(bounds);
    if (size > MOST_BOUNDS)
        return PyErr_Format(PyExc_ValueError, "at most %d bounds", MOST_BOUNDS);
    Histogram *self = (Histogram *)PyType_GenericAlloc(type, 0);
    for (Py_ssize_t at = 0; self && at < size; at++)
        self->bounds[at] = PyFloat_AsDouble(PyTuple_GetItem(bounds, at));
    if (self)
        self->size = size;
    if (PyErr_Occurred())
        Py_CLEAR(self);
    return (PyObject *)self;
}

static void histogram_end(PyObject *self) {
    end(self, NULL);
}

static void count_time(Histogram *self, double seconds) {
    Py_ssize_t at = 0;
    while (at < self->size && self->bounds[at] < seconds)
        at++;
    self->counts[at]++;
    self->total += seconds;
}

static PyObject *histogram_observe(PyObject *self, PyObject *given) {
    double seconds = PyFloat_AsDouble(given);
    if (PyErr_Occurred())
        return NULL;
    count_time((Histogram *)self, seconds);
    Py_RETURN_NONE;
}

static PyObject *histogram_buckets(PyObject *given, void *Py_UNUSED(closure)) {
    const Histogram *self = (Histogram *)given;
    PyObject *found = PyList_New(self->size + 1);
    for (Py_ssize_t at = 0; found && at <= self->size; at++) {
        PyObject *count = PyLong_FromLongLong(self->counts[at]);
        if (!count || PyList_SetItem(found, at, count) < 0)
            Py_CLEAR(found);
    }
    return found;
}

/* Reel. */

static bool has(const char *data, size_t size, const char *what, size_t length) {
    return memmem(data, size, what, length) != NULL;
}

/* Whether "or" is in them, which is in "error" as well as in "abort". In steps that compilers make vectors of. */
static bool has_or(const char *data, size_t size) {
    unsigned found = 0;
    for (size_t at = 0; at + 1 < size; at++)
        found |= (unsigned)(data[at] == 'o') & (unsigned)(data[at + 1] == 'r');
    return found != 0;
}

static bool gives_up(const char *data, size_t size) {
    return has_or(data, size) &&
           (has(data, size, LITERAL("{\"error\"")) || has(data, size, LITERAL("\"finish_reason\":\"abort\"")) ||
            has(data, size, LITERAL("\"finish_reason\":\"error\"")));
}

static PyObject *reel_heard(PyObject *given, PyObject *data) {
    Reel *self = (Reel *)given;
    char *bytes;
    Py_ssize_t size;
    if (PyBytes_AsStringAndSize(data, &bytes, &size) < 0)
        return NULL;
    if (gives_up(bytes, (size_t)size))
        Py_RETURN_TRUE;
    if (self->left < size)
        return PyObject_CallMethodObjArgs(given, ask_for_more, data, NULL);
    if (PyList_Append(self->parts, data) < 0)
        return NULL;
    self->left -= size;
    Py_RETURN_FALSE;
}

/* Passing. */

static int digit_of(char c) {
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Behind the chunk that begins at `at`, 0 if none does that ends in these bytes. `payload`: its bytes; `plain`: as `%x` says them. */
static size_t behind_chunk(const char *data, size_t size, size_t at, size_t *payload, bool *plain) {
    size_t length = 0, start = at;
    bool usual = true;
    for (int digit; at < size && at - start < 7 && (digit = digit_of(data[at])) >= 0; at++) {
        length = length * 16 + (size_t)digit;
        usual = usual && (data[at] < 'A' || data[at] > 'F');
    }
    *plain = usual && data[start] != '0';
    *payload = length;
    if (at == start || !length || size - at < length + 4 || memcmp(data + at, "\r\n", 2) != 0)
        return 0;
    at += 2 + length;
    return memcmp(data + at, "\r\n", 2) == 0 ? at + 2 : 0;
}

static bool whole_events(const char *data, size_t size) {
    size_t payload;
    bool plain;
    if (size < 7 || size >= LONGEST || memcmp(data + size - 4, "\n\n\r\n", 4) != 0)
        return false;
    size_t at = behind_chunk(data, size, 0, &payload, &plain);
    if (at == size && plain && payload > 1)
        return true;
    if (memcmp(data + size - 5, "\r\n\n\r\n", 5) == 0)
        return false; /* the first LF may be that of a chunk's header */
    while (at && at < size)
        at = behind_chunk(data, size, at, &payload, &plain);
    return at == size;
}

static double now_by(PyObject *clock) {
    if (clock == monotonic) {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        return (double)((long long)now.tv_sec * 1000000000 + now.tv_nsec) / 1e9;
    }
    PyObject *told = PyObject_CallNoArgs(clock);
    double now = told ? PyFloat_AsDouble(told) : -1.0;
    Py_XDECREF(told);
    return now;
}

/* What a transport tells by a bool or a size; -1 with an exception. */
static Py_ssize_t told_by(PyObject *what) {
    PyObject *answer = PyObject_CallNoArgs(what);
    Py_ssize_t value = answer ? PyLong_AsSsize_t(answer) : -1;
    Py_XDECREF(answer);
    return value;
}

/* Into the socket at once, where the transport is open and holds nothing back: bytes sent, 0 if none could be, -1: an exception.
 * What goes wrong with the socket is left to the transport, which is given what was not sent. */
static ssize_t send_at_once(const Passing *self, const char *bytes, size_t size) {
    if (self->file < 0)
        return 0;
    Py_ssize_t closing = told_by(self->closing), queued = closing ? closing : told_by(self->queued);
    if (closing || queued)
        return closing < 0 || queued < 0 ? -1 : 0;
    ssize_t sent = send(self->file, bytes, size, MSG_DONTWAIT | MSG_NOSIGNAL);
    return sent < 0 ? 0 : sent;
}

static int write_out(const Passing *self, PyObject *data, const char *bytes, Py_ssize_t size) {
    ssize_t sent = send_at_once(self, bytes, (size_t)size);
    if (sent < 0 || sent == size)
        return sent < 0 ? -1 : 1;
    PyObject *rest = sent ? PyBytes_FromStringAndSize(bytes + sent, size - sent) : Py_NewRef(data);
    PyObject *written = rest ? tell(self->write, rest) : NULL;
    Py_XDECREF(rest);
    Py_XDECREF(written);
    return written ? 1 : -1;
}

/* 1: passed on. 0: nothing was done. -1: an exception. */
static int pass(Passing *self, PyObject *data) {
    char *bytes;
    Py_ssize_t size;
    if (PyBytes_AsStringAndSize(data, &bytes, &size) < 0)
        return -1;
    if (!self->clock || !whole_events(bytes, (size_t)size))
        return 0;
    if (self->hear != Py_None) {
        PyObject *up = tell(self->hear, data);
        int gave_up = up ? PyObject_IsTrue(up) : -1;
        Py_XDECREF(up);
        if (gave_up)
            return gave_up < 0 ? -1 : 0;
    }
    double now = now_by(self->clock);
    if (now == -1.0 && PyErr_Occurred())
        return -1;
    count_time((Histogram *)self->gaps, now - self->heard_at);
    self->heard_at = now;
    return write_out(self, data, bytes, size);
}

static PyObject *pass_on(PyObject *self, PyObject *data) {
    int done = pass((Passing *)self, data);
    return done < 0 ? NULL : PyBool_FromLong(done);
}

static PyObject *steady(PyObject *given, PyObject *args) {
    PyObject *clock, *gaps, *hear, *outlet, *write, *closing, *queued;
    int file;
    if (!PyArg_ParseTuple(args, "OO!OO!:steady", &clock, histogram_type, &gaps, &hear, &PyTuple_Type, &outlet) ||
        !PyArg_ParseTuple(outlet, "OiOO:steady", &write, &file, &closing, &queued))
        return NULL;
    ((Passing *)given)->file = file;
    PyObject *those[] = {clock, gaps, hear, write, closing, queued};
    for (size_t at = 0; at < 6; at++) {
        PyObject **place = &references(given, offsetof(Passing, clock))[at], *old = *place;
        Py_INCREF(those[at]);
        *place = those[at];
        Py_XDECREF(old);
    }
    Py_RETURN_NONE;
}

/* Line. */

static PyObject *data_received(PyObject *given, PyObject *data) {
    Line *self = (Line *)given;
    PyObject *way = self->short_way;
    if (way && way != Py_None) {
        PyObject *done = tell(way, data);
        if (!done)
            return NULL;
        bool passed = done == Py_True;
        Py_DECREF(done);
        if (passed)
            Py_RETURN_NONE;
        Py_CLEAR(self->short_way);
    }
    return PyObject_CallMethodObjArgs(given, long_way, data, NULL);
}

/* The module. */

static PyMemberDef histogram_members[] = {{"total", T_DOUBLE, offsetof(Histogram, total), 0, NULL}, {NULL, 0, 0, 0, NULL}};
static PyGetSetDef histogram_got[] = {{"buckets", histogram_buckets, NULL, NULL, NULL}, {NULL, NULL, NULL, NULL, NULL}};
static PyMethodDef histogram_methods[] = {{"observe", histogram_observe, METH_O, NULL}, {NULL, NULL, 0, NULL}};
static PyMemberDef reel_members[] = {{"_left", T_PYSSIZET, offsetof(Reel, left), 0, NULL},
                                     {"_parts", T_OBJECT_EX, offsetof(Reel, parts), 0, NULL},
                                     {NULL, 0, 0, 0, NULL}};
static PyMethodDef reel_methods[] = {{"heard", reel_heard, METH_O, NULL}, {NULL, NULL, 0, NULL}};
static PyMemberDef passing_members[] = {{"_heard_at", T_DOUBLE, offsetof(Passing, heard_at), 0, NULL}, {NULL, 0, 0, 0, NULL}};
static PyMethodDef passing_methods[] = {{"steady", steady, METH_VARARGS, NULL}, {"pass_on", pass_on, METH_O, NULL}, {NULL, NULL, 0, NULL}};
static PyMemberDef line_members[] = {{"short_way", T_OBJECT, offsetof(Line, short_way), 0, NULL}, {NULL, 0, 0, 0, NULL}};
static PyMethodDef line_methods[] = {{"data_received", data_received, METH_O, NULL}, {NULL, NULL, 0, NULL}};

#define NEW(type) {Py_tp_new, (void *)PyType_GenericNew}, {Py_tp_traverse, (void *)type##_traverse}, \
                  {Py_tp_clear, (void *)type##_clear}, {Py_tp_dealloc, (void *)type##_end}
static PyType_Slot histogram_slots[] = {{Py_tp_new, (void *)histogram_new}, {Py_tp_dealloc, (void *)histogram_end},
                                        {Py_tp_members, histogram_members}, {Py_tp_getset, histogram_got},
                                        {Py_tp_methods, histogram_methods}, {0, NULL}};
static PyType_Slot reel_slots[] = {NEW(Reel), {Py_tp_members, reel_members}, {Py_tp_methods, reel_methods}, {0, NULL}};
static PyType_Slot passing_slots[] = {NEW(Passing), {Py_tp_members, passing_members}, {Py_tp_methods, passing_methods}, {0, NULL}};
static PyType_Slot line_slots[] = {NEW(Line), {Py_tp_members, line_members}, {Py_tp_methods, line_methods}, {0, NULL}};

#define BASE (Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC)
static PyType_Spec specs[] = {
    {"mica_router.hot._native.Histogram", sizeof(Histogram), 0, Py_TPFLAGS_DEFAULT, histogram_slots},
    {"mica_router.hot._native.Reel", sizeof(Reel), 0, BASE, reel_slots},
    {"mica_router.hot._native.Passing", sizeof(Passing), 0, BASE, passing_slots},
    {"mica_router.hot._native.Line", sizeof(Line), 0, BASE, line_slots},
};
static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_native", NULL, -1, NULL, NULL, NULL, NULL, NULL};

static int fill(PyObject *module) {
    for (size_t at = 0; at < sizeof(specs) / sizeof(*specs); at++) {
        PyObject *type = PyType_FromSpec(&specs[at]);
        if (!type || PyModule_AddType(module, (PyTypeObject *)type) < 0)
            return -1;
        if (!at)
            histogram_type = (PyTypeObject *)type; /* kept for good, as the names below */
    }
    PyObject *time = PyImport_ImportModule("time");
    monotonic = time ? PyObject_GetAttrString(time, "monotonic") : NULL;
    Py_XDECREF(time);
    ask_for_more = PyUnicode_InternFromString("_ask_for_more");
    long_way = PyUnicode_InternFromString("long_way");
    return monotonic && ask_for_more && long_way ? PyModule_AddStringConstant(module, "DIGEST", MICA_NATIVE_DIGEST) : -1;
}

PyMODINIT_FUNC PyInit__native(void) {
    PyObject *module = PyModule_Create(&definition);
    if (module && fill(module) < 0)
        Py_CLEAR(module);
    return module;
}
