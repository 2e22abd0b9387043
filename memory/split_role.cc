#include "memory/split_role.h"

namespace pointsman {

const char* SplitRoleText(SplitRole role) {
  switch (role) {
    case SplitRole::kReference:
      return "reference";
    case SplitRole::kCalibration:
      return "calibration";
    case SplitRole::kTest:
      return "test";
  }
  return "unknown";
}

}  // namespace pointsman
