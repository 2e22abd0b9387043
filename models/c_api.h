/* The part of libpointsman's C interface that reads a model directory (config.json, safetensors, tokenizer.json); no
 * LibTorch. Conventions: router/c_api.h. */
#ifndef POINTSMAN_MODELS_C_API_H_
#define POINTSMAN_MODELS_C_API_H_

#include "router/c_api.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What ties a memory to a model (models/fingerprint.h): hex digits and short words, each ends with 0. */
typedef struct pm_model_fingerprint {
  char architecture[64];
  char config_sha256[65];
  char router_sha256[65];
  char tokenizer_sha256[65];
  char dtype[16];
  char experts_sha256[65];
} pm_model_fingerprint;

/* Reads all expert weights, on several threads. PM_UNSUPPORTED for a family whose fingerprint is not defined. */
PM_API pm_status pm_fingerprint_of_model(const char* directory, pm_model_fingerprint* fingerprint, pm_error* error);

#ifdef __cplusplus
}
#endif

#endif /* POINTSMAN_MODELS_C_API_H_ */
