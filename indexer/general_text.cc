#include "indexer/general_text.h"

namespace pointsman {

std::vector<std::string> FindGeneralText(FileSystem& files) {
  // Of every Debian-like machine; what is not there is left out, and the manifest lists what was.
  static constexpr const char* kPlaces[] = {"/usr/share/common-licenses", "/usr/share/doc", "/usr/lib/python3",
                                            "/usr/lib/python3.11", "/usr/share/perl5"};
  std::vector<std::string> found;
  for (const char* place : kPlaces) {
    if (files.Exists(place)) found.emplace_back(place);
  }
  return found;
}

}  // namespace pointsman
