/* Arguments of the kernels: buffers of contiguous bytes. */
#ifndef INGRAFT_ARRAYS_H
#define INGRAFT_ARRAYS_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <string.h>

#if defined(_MSC_VER)
#define restrict __restrict
#endif

#define MOST 4
typedef struct {
    Py_buffer views[MOST];
    int count;
} Arrays;

static void release(Arrays *arrays)
{
    while (arrays->count)
        PyBuffer_Release(&arrays->views[--arrays->count]);
}

/* The arguments: the first `read` are read, the others written. 0 with an exception where they are no such buffers. */
static int take(Arrays *arrays, PyObject *const *arguments, Py_ssize_t given, int wanted, int read)
{
    arrays->count = 0;
    if (given != wanted) {
        PyErr_Format(PyExc_TypeError, "expected %d arrays, not %zd", wanted, given);
        return 0;
    }
    for (int i = 0; i < wanted; i++, arrays->count++)
        if (PyObject_GetBuffer(arguments[i], &arrays->views[i], i < read ? PyBUF_SIMPLE : PyBUF_WRITABLE)) {
            release(arrays);
            return 0;
        }
    return 1;
}

static PyObject *refuse(Arrays *arrays)
{
    release(arrays);
    PyErr_SetString(PyExc_ValueError, "the arrays' sizes do not fit each other");
    return NULL;
}

#endif
