#include "daemon/http/message.h"

namespace pointsman {

std::string_view HttpRequest::Header(std::string_view lower_case_name) const {
  const auto found = headers.find(lower_case_name);
  return found == headers.end() ? std::string_view() : std::string_view(found->second);
}

}  // namespace pointsman
