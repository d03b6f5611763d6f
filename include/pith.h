/* pith.h - attention in small memory: all public headers. Include as <pith.h>. */
#ifndef PITH_H
#define PITH_H

#include "pith/attention.h"
#include "pith/base.h"
#include "pith/cache.h"
#include "pith/compress.h"
#include "pith/file.h"
#include "pith/sampler.h"
#include "pith/sparsity.h"
#include "pith/summary.h"

#endif
