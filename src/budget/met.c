/* met.c - errors as a model meets them: a query sees the keys near it beside the summary. */
#include <math.h>
#include <string.h>

#include "attention/attention.h"
#include "budget/job.h"

enum { PANEL = 256 };

typedef struct meeting {
  const pith_asked *asked;
  pith_rows rows;
  float *answer;  /* (count, dv) */
  float *scratch; /* (threads, PANEL, rows) */
} meeting;

static void meet_panel(void *argument, size_t index, int thread) {
  const meeting *m = argument;
  const pith_asked *asked = m->asked;
  size_t begin = index * PANEL, count = pith_min_size(PANEL, asked->count - begin), d = m->rows.d, dv = m->rows.dv;
  float *answer = m->answer + begin * dv, log_mass[PANEL];
  memcpy(answer, asked->answer + begin * dv, count * dv * sizeof *answer);
  memcpy(log_mass, asked->log_mass + begin, count * sizeof *log_mass);
  pith_attend_panel(&m->rows, asked->queries + begin * d, count, m->scratch + (size_t)thread * PANEL * m->rows.count,
                    log_mass, answer);
}

pith_status pith_job_meet(pith_context *context, const pith_job *job, const pith_asked *asked, const float *keys,
                          const float *values, const float *log_weight, size_t rows, float *answers) {
  meeting m = {.asked = asked,
               .rows = {.keys = keys,
                        .values = values,
                        .dtype = PITH_F32,
                        .count = rows,
                        .d = job->problem.d,
                        .dv = job->problem.dv,
                        .log_weight = log_weight},
               .answer = answers,
               .scratch = pith_allocate(context, (size_t)pith_threads(context) * PANEL, rows * sizeof(float))};
  if (!m.scratch) return PITH_E_MEMORY;
  pith_parallel_for(context, (asked->count + PANEL - 1) / PANEL, meet_panel, &m);
  pith_release(context, m.scratch);
  return PITH_OK;
}

/* Keys and values of a stored head as f32, in one block: keys first. */
static pith_status read_back(pith_context *context, const pith_head_view *view, float **block) {
  size_t points = view->points, d = view->d;
  float *rows = *block = pith_allocate(context, points * (d + view->dv), sizeof *rows);
  if (!rows) return PITH_E_MEMORY;
  pith_head_to_f32(view, rows, rows + points * d);
  return PITH_OK;
}

static pith_met_error compare(const pith_asked *asked, const float *answers, size_t dv) {
  double sum = 0, squares = 0, count = (double)asked->count;
  for (size_t r = 0; r < asked->count; r++) {
    double squared = 0;
    for (size_t j = 0; j < dv; j++) {
      double x = (double)answers[r * dv + j] - asked->met[r * dv + j];
      squared += x * x;
    }
    sum += squared;
    squares += squared * squared;
  }
  double mean = sum / count;
  return (pith_met_error){mean, sqrt(fmax(squares / count - mean * mean, 0) / count)};
}

pith_status pith_job_met_error(pith_context *context, const pith_job *job, const pith_asked *asked,
                               const pith_head_view *view, pith_met_error *error) {
  *error = (pith_met_error){NAN, NAN};
  if (asked->count == 0) return PITH_OK;
  float *rows = NULL, *answers = pith_allocate(context, asked->count * job->problem.dv, sizeof *answers);
  if (!answers) return PITH_E_MEMORY;
  pith_status status = read_back(context, view, &rows);
  if (status == PITH_OK)
    status = pith_job_meet(context, job, asked, rows, rows + view->points * view->d, view->log_weight, view->points,
                           answers);
  if (status == PITH_OK) *error = compare(asked, answers, job->problem.dv);
  pith_release(context, rows);
  pith_release(context, answers);
  return status;
}
