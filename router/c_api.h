/* The C interface of libpointsman: a memory and the routing with it, for hosts that are not C++ (python/, plug-ins).
 *
 *   pm_error error;
 *   pm_memory* memory;
 *   if (pm_memory_open("mem/", NULL, &memory, &error) != PM_OK) { puts(error.message); ... }
 *   pm_router* router = pm_router_new();
 *   uint32_t slot = pm_router_add_slot(router, memory, NULL, 1.0f, 0);              one sequence; 0 is the frozen
 * router pm_step* step; pm_router_begin_step(router, slots, positions, tokens, rows, &step, &error);    once a forward
 * pass pm_router_route(router, step, layer, hidden, PM_F32, logits, PM_F32, &error);   at each MoE layer, logits in
 * place
 *
 * What a step, a slot and a row mean, and what is promised of bits: router/router.h. Formulas: router/blend.h (values),
 * router/context_gate.h (gate), memory/routing_tables.h (tables).
 *
 * Shapes: T rows of a step, H hidden size, E experts, R keys of a layer, D their dimensions, V vocabulary, P token
 * pairs. Arrays are dense, row-major and in the machine's byte order.
 *
 * Errors: a call that can fail returns a pm_status and, unless `error` is NULL, leaves one line there: the thing, what
 * is wrong with it, what to do. After an error no logits were changed and no handle was made. Nothing throws; where
 * memory runs out the status is PM_NO_MEMORY.
 *
 * Threads: a pm_memory is immutable. All calls on one pm_router may come from any thread: it takes them one at a time.
 * Steps of other routers are refused, and so is a step once a later one of its router has begun.
 *
 * Ownership: what a function makes, its _free (or _close) takes; NULL is fine there. A slot keeps its memory's tables
 * alive, so a memory may be closed before its router. Pointers that point into a memory are valid until it is closed.
 *
 * The layout of the structs changes with PM_ABI_VERSION only: compare it with pm_abi_version() at run time. */
#ifndef POINTSMAN_ROUTER_C_API_H_
#define POINTSMAN_ROUTER_C_API_H_

#include <stddef.h>
#include <stdint.h>

#define PM_API __attribute__((visibility("default")))
#define PM_ABI_VERSION 3

#ifdef __cplusplus
extern "C" {
#endif

typedef enum pm_status {
  PM_OK = 0,
  PM_INVALID_ARGUMENT = 1, /* the caller's fault: a shape, a slot, a step */
  PM_NOT_FOUND = 2,
  PM_CORRUPT = 3,     /* bytes on disk are not what was written */
  PM_MISMATCH = 4,    /* a memory of another model */
  PM_IO = 5,          /* the operating system refused */
  PM_NO_SPACE = 6,    /* on the disk */
  PM_BUSY = 7,        /* the memory is being replaced */
  PM_UNSUPPORTED = 8, /* well-formed, but not implemented here */
  PM_INTERNAL = 9,
  PM_REJECTED = 10, /* the memory's own verdict is reject */
  PM_NO_MEMORY = 11
} pm_status;

typedef struct pm_error {
  int32_t code;       /* a pm_status */
  char message[1020]; /* UTF-8, ends with 0; a longer one is cut */
} pm_error;

/* "invalid_argument", "corrupt", ...; "unknown" for other numbers. */
PM_API const char* pm_status_name(int32_t status);
PM_API int32_t pm_abi_version(void);
PM_API const char* pm_version(void); /* "0.1.0" */

/* ---- memory ---- */

typedef struct pm_memory pm_memory;

typedef struct pm_open_options {
  int32_t allow_rejected; /* 1: a memory whose verdict is reject opens, too (else PM_REJECTED) */
  int32_t load_to_ram;    /* 1: copy everything up front; 0: map the files */
} pm_open_options;

/* `options` NULL: all 0. Every block's checksum is verified before its bytes are used. */
PM_API pm_status pm_memory_open(const char* path, const pm_open_options* options, pm_memory** memory, pm_error* error);
PM_API void pm_memory_close(pm_memory* memory);

PM_API const char* pm_memory_path(const pm_memory* memory);
PM_API const char* pm_memory_manifest(
    const pm_memory* memory); /* MANIFEST.json as JSON: schemas/manifest.schema.json */

typedef struct pm_memory_info {
  int32_t kind;         /* 0 entries, 1 prototypes */
  int32_t value_kind;   /* 0 delta, 1 logits, 2 assignments: what a value votes for */
  uint32_t top_k;       /* experts a token of the model; assignments need it */
  uint32_t layer_count; /* layers with memory */
  uint32_t hidden;      /* H of the model; 0 without layers */
  uint32_t experts;     /* E of the first layer; 0 without layers */
  uint64_t document_count;
  uint64_t generation, rows /* of all layers */, derived_bytes, truth_bytes;
} pm_memory_info;

/* Walks over the memory's files for the two sizes. */
PM_API pm_status pm_memory_get_info(const pm_memory* memory, pm_memory_info* info, pm_error* error);

/* Name of a document, not ended by 0, with its length; NULL for an index that is not below document_count. */
PM_API const char* pm_memory_document(const pm_memory* memory, uint64_t index, size_t* length);

/* Is this the memory's model? The six fields of a fingerprint (models/fingerprint.h), NULL counts as "". PM_MISMATCH
 * has both values of what differs. A differing dtype or expert digest is PM_OK, and `warning` [capacity], if given,
 * says so; it is "" otherwise. */
typedef struct pm_fingerprint {
  const char *architecture, *config_sha256, *router_sha256, *tokenizer_sha256, *dtype, *experts_sha256;
} pm_fingerprint;
PM_API pm_status pm_memory_check_fingerprint(const pm_memory* memory, const pm_fingerprint* model, char* warning,
                                             size_t capacity, pm_error* error);

/* Where an entry comes from. document 0xffffffff: an unused place of a prototype's list. */
typedef struct pm_entry_ref {
  uint32_t document; /* below document_count */
  uint32_t position; /* of the token in it */
} pm_entry_ref;

/* Keys of one search. Of a query h [H]:
 *   x = projection (h - mean),  q = x / |x|;  without mean no centering, without projection D == H
 *   q is rounded to int16 with one scale (max |q| / 32767); a key is codes[r] * code_scales[r]
 *   similarity of row r = (sum of int16 * int8, an exact integer, as fp32) * (code_scales[r] * scale of the query)
 * The k best rows, best first, a tie to the lower row. Nothing for a query that is not finite. */
typedef struct pm_keys {
  uint32_t hidden, dim;     /* H, D */
  uint64_t rows;            /* R */
  const float* mean;        /* [H] or NULL */
  const float* projection;  /* [D, H] or NULL */
  const int8_t* codes;      /* [R, D] */
  const float* code_scales; /* [R] */
} pm_keys;

/* One layer, for an implementation on a device. A row's change (delta) is, with s its similarities, w = softmax(s /
 * tau), G the gate and g the confidence: strength * G * (g * scale * sum_i w_i value_i + router_delta h +
 * token_table[token]) confidence 0: g = exp((mean s - 1) / tau2)   1: exp((max s - 1) / tau2)   2: mean exp((s - 1) /
 * tau2) 3: min(1, sum exp((s - 1) / tau2)) logits and assignments: router/blend.h. strength * G == 0: the row is not
 * written. */
typedef struct pm_layer {
  int32_t layer;    /* index in the model */
  uint32_t experts; /* E */
  pm_keys keys;
  const int8_t* values;      /* [R, E]: value = values * value_scales */
  const float* value_scales; /* [R] */
  int32_t k;
  float tau, tau2, scale;
  int32_t confidence;
  uint32_t references_per_row;     /* 0, 1 (entries) or 8 (prototypes) */
  const pm_entry_ref* references;  /* [R, references_per_row] or NULL */
  const float* router_delta;       /* [E, H] or NULL */
  uint64_t token_rows;             /* N of the token table; a token without a row adds nothing */
  const int8_t* token_table;       /* [N, E] or NULL */
  const float* token_table_scales; /* [N] */
  const uint32_t* token_ids;       /* [N] ascending, whose rows these are; NULL: row v is token v's */
} pm_layer;

PM_API int32_t pm_memory_layer_number(const pm_memory* memory, uint32_t index); /* ascending; -1: no such index */
PM_API pm_status pm_memory_get_layer(const pm_memory* memory, int32_t layer, pm_layer* view, pm_error* error);

/* A group of documents that the gate opens for on their own evidence. */
typedef struct pm_gate_group {
  const char* name; /* "" where there is one group; the memory's, as long as it is open */
  float prior, lo, hi;
} pm_gate_group;

/* The context gate G of a sequence, from its tokens alone. For a group:
 *   e_t = 1 if the pair (token before, token) is in pairs, in the group and not is_common, `common` if it is common, 0
 *         if it is not there, `prior` if either token is unknown (negative, or before the first one)
 *   m_t = (n0 * prior + the last n of e_1 .. e_t) / (n0 + n),  n = min(t, window), in double
 *   G_t = (m_t - lo) / (hi - lo) clipped to 0..1, of the groups the most;  not enabled: G = 1 */
typedef struct pm_gate {
  int32_t enabled;
  float n0, common;
  uint32_t window;
  uint64_t pair_count;         /* P */
  const uint64_t* pairs;       /* [P] ascending: previous token << 32 | token */
  const uint8_t* is_common;    /* [P]: 1 if unrelated text has the pair, too */
  const uint16_t* pair_groups; /* [P]: bit j, it is in group j; NULL where there is one group */
  uint32_t group_count;        /* J, 1..16 */
} pm_gate;
PM_API void pm_memory_get_gate(const pm_memory* memory, pm_gate* view);
/* Group `index` of the gate, below group_count. PM_INVALID_ARGUMENT: there is none. */
PM_API pm_status pm_memory_get_gate_group(const pm_memory* memory, uint32_t index, pm_gate_group* view,
                                          pm_error* error);

/* The optional output memory, whose neighbours vote on the next token (router/output_vote.h). */
typedef struct pm_output {
  int32_t enabled;     /* 0: there is none, and nothing else here means anything */
  uint32_t vocabulary; /* V of the model */
  int32_t k;
  float tau, lambda, tau2;
  pm_keys keys;
  const int32_t* next_tokens;     /* [R] */
  const pm_entry_ref* references; /* [R] or NULL */
} pm_output;
PM_API void pm_memory_get_output(const pm_memory* memory, pm_output* view);

typedef struct pm_neighbour {
  float similarity; /* cosine to the stored key; -2: there is none (fewer keys than k, a query that is not finite) */
  uint32_t row;
} pm_neighbour;

/* The exact k nearest keys of hidden [rows, hidden_size], best first, into found [rows, k]. hidden_size is the layer's
 * H, k is 1 or more. */
PM_API pm_status pm_memory_search(const pm_memory* memory, int32_t layer, const float* hidden, size_t rows,
                                  size_t hidden_size, uint32_t k, pm_neighbour* found, pm_error* error);

/* ---- session vectors (online rerouting): one additive vector a layer ---- */

typedef struct pm_session pm_session;

/* vectors[i] is [experts] fp32 and is added to the logits of layer layers[i]. Copied. The same layer twice, a layer
 * outside 0..4095 and values that are not finite are PM_INVALID_ARGUMENT. */
PM_API pm_status pm_session_new(const int32_t* layers, const float* const* vectors, size_t count, uint32_t experts,
                                pm_session** session, pm_error* error);
PM_API void pm_session_free(pm_session* session);

/* ---- router ---- */

typedef struct pm_router pm_router;
typedef struct pm_step pm_step;

typedef enum pm_dtype { PM_F32 = 0, PM_BF16 = 1, PM_F16 = 2 } pm_dtype; /* passed as an int: any other is an error */

PM_API pm_router* pm_router_new(void); /* NULL: out of memory */
PM_API void pm_router_free(pm_router* router);

/* A sequence with a memory (or NULL), a session (or NULL), strength 0..1 (cut off there) and shadow (1: compute and
 * count everything, write nothing). Returns its id, 1 or above; 0 if memory ran out. Released ids are given out again.
 */
PM_API uint32_t pm_router_add_slot(pm_router* router, const pm_memory* memory, const pm_session* session,
                                   float strength, int32_t shadow);
/* Of a slot that is not live: release does nothing, the others are PM_INVALID_ARGUMENT. */
PM_API void pm_router_release_slot(pm_router* router, uint32_t slot);
PM_API pm_status pm_router_set_strength(pm_router* router, uint32_t slot, float strength, pm_error* error);
PM_API pm_status pm_router_set_session(pm_router* router, uint32_t slot, const pm_session* session, pm_error* error);

/* T = rows. tokens may be NULL: unknown text to the gate, and no token table; so is a negative token. Rows of one
 * sequence ascend by position, one by one; a position at or below one already seen rewinds the sequence's gate to it.
 */
PM_API pm_status pm_router_begin_step(pm_router* router, const uint32_t* slots, const uint32_t* positions,
                                      const int32_t* tokens, size_t rows, pm_step** step, pm_error* error);
PM_API void pm_step_free(pm_step* step);
PM_API size_t pm_step_rows(const pm_step* step);
/* [T] G of each row, 0..1; may be changed before the first route. Valid until the step is freed. */
PM_API float* pm_step_gate(pm_step* step);

/* What happened to one row at one layer; the pointers are valid during the call. */
typedef struct pm_row_trace {
  uint32_t row;
  int32_t layer;
  float gate, confidence; /* G, g */
  int32_t written;
  uint32_t neighbour_count, experts;
  const pm_neighbour* neighbours; /* best first */
  const float* logits_before;     /* [E] */
  const float* logits_after;      /* [E]; in shadow mode what would have been written */
} pm_row_trace;
typedef void (*pm_trace_fn)(void* context, const pm_row_trace* trace);

/* hidden [T, H] and logits [T, E], H and E of this layer; logits change in place. Other types than fp32 are widened,
 * computed with in fp32 and rounded once, to the nearest, ties to even; rows that are not written keep their bits.
 * So does a row that would overflow in being rounded.
 * `hidden_size` and `experts` are what the caller's arrays have; they are held to the tables. */
PM_API pm_status pm_router_route(pm_router* router, pm_step* step, int32_t layer, const void* hidden,
                                 int32_t hidden_type, size_t hidden_size, void* logits, int32_t logits_type,
                                 size_t experts, pm_error* error);
/* The same in fp32, and calls `trace` once for each row that has memory or session here, in row order. */
PM_API pm_status pm_router_route_traced(pm_router* router, pm_step* step, int32_t layer, const float* hidden,
                                        size_t hidden_size, float* logits, size_t experts, pm_trace_fn trace,
                                        void* context, pm_error* error);

/* The output memory's vote, after the last layer: hidden [count, H] is what the output layer reads and logits
 * [count, V] what it gave, for the step's rows `rows` [count], ascending (NULL: all). */
PM_API pm_status pm_router_vote_output(pm_router* router, pm_step* step, const uint32_t* rows, size_t count,
                                       const float* hidden, size_t hidden_size, float* logits, size_t vocabulary,
                                       pm_error* error);

/* 1: every route and vote is a no-op from now on; 0: not any more, from the next step on. Never waits for a call. */
PM_API void pm_router_set_kill_switch(pm_router* router, int32_t off);

typedef struct pm_counters {
  uint64_t rows, touched, written, gate_shut, voted, non_finite; /* router/router.h, RouterCounters */
} pm_counters;
PM_API void pm_router_get_counters(pm_router* router, pm_counters* counters);

/* The gate of a slot: what prefix caches and preemption keep. It depends on the slot's tokens alone. */
/* How many positions it has seen. */
PM_API pm_status pm_router_slot_length(pm_router* router, uint32_t slot, uint32_t* length, pm_error* error);
/* G after each position, into gate [length]; `length` as above, else PM_INVALID_ARGUMENT. */
PM_API pm_status pm_router_gate_history(pm_router* router, uint32_t slot, float* gate, uint32_t length,
                                        pm_error* error);
/* The tokens that it has seen, into tokens [length]; -1: unknown, as everywhere without memory or without a gate. */
PM_API pm_status pm_router_export_gate(pm_router* router, uint32_t slot, int32_t* tokens, uint32_t length,
                                       pm_error* error);
/* Puts the slot after these tokens, whatever it had seen: the same bits as if they had been in steps. The step that has
 * begun goes on with the gates that it has. */
PM_API pm_status pm_router_import_gate(pm_router* router, uint32_t slot, const int32_t* tokens, uint32_t length,
                                       pm_error* error);

#ifdef __cplusplus
}
#endif

#endif /* POINTSMAN_ROUTER_C_API_H_ */
