#include "indexer/file_walk.h"

#include <sys/stat.h>

#include <algorithm>
#include <deque>
#include <filesystem>
#include <set>
#include <tuple>
#include <utility>

namespace pointsman {
namespace {

struct Entry {
  std::string path;
  std::string name;  // empty for a corpus path itself
  size_t root = 0;
  bool follow = false;  // a corpus path, or a link whose turn has come
};

bool IsVersionControl(const std::string& name) { return name == ".git" || name == ".hg" || name == ".svn"; }

class Walk {
 public:
  // Links wait until all real entries are seen, so that a file keeps its real name when a link leads to it too.
  FoundFiles Run(std::deque<Entry> entries) {
    std::deque<Entry> links;
    while (!entries.empty() || !links.empty()) {
      if (entries.empty()) {
        entries.push_back(std::move(links.front()));
        entries.back().follow = true;
        links.pop_front();
      }
      Entry entry = std::move(entries.front());
      entries.pop_front();
      struct stat info {};
      const int failed = entry.follow ? stat(entry.path.c_str(), &info) : lstat(entry.path.c_str(), &info);
      if (failed != 0) {
        found_.unreadable.push_back(entry.path);
      } else if (S_ISLNK(info.st_mode)) {
        links.push_back(std::move(entry));
      } else if ((S_ISREG(info.st_mode) || S_ISDIR(info.st_mode)) && seen_.emplace(info.st_dev, info.st_ino).second) {
        S_ISDIR(info.st_mode) ? List(entry, &entries) : AddFile(entry, static_cast<uint64_t>(info.st_size));
      }
    }
    std::sort(found_.files.begin(), found_.files.end(), [](const FoundFile& a, const FoundFile& b) {
      return std::tie(a.root, a.name) < std::tie(b.root, b.name);
    });
    return std::move(found_);
  }

 private:
  void AddFile(const Entry& entry, uint64_t bytes) {
    std::string name = entry.name.empty() ? std::filesystem::path(entry.path).filename().string() : entry.name;
    found_.files.push_back({entry.path, std::move(name), bytes, entry.root});
  }

  void List(const Entry& folder, std::deque<Entry>* entries) {
    std::error_code error;
    std::vector<std::string> names;
    std::filesystem::directory_iterator it(folder.path, error), end;
    for (; !error && it != end; it.increment(error)) names.push_back(it->path().filename().string());
    if (error) found_.unreadable.push_back(folder.path);
    std::sort(names.begin(), names.end());
    for (std::string& name : names) {
      if (IsVersionControl(name)) continue;
      const std::string separator = folder.path.ends_with('/') ? "" : "/";
      entries->push_back(
          {folder.path + separator + name, folder.name.empty() ? name : folder.name + "/" + name, folder.root, false});
    }
  }

  std::set<std::pair<dev_t, ino_t>> seen_;
  FoundFiles found_;
};

}  // namespace

Result<FoundFiles> FindFiles(const std::vector<std::string>& paths) {
  std::deque<Entry> roots;
  for (size_t i = 0; i < paths.size(); ++i) {
    struct stat info {};
    if (stat(paths[i].c_str(), &info) != 0) {
      return Error{ErrorCode::kNotFound,
                   paths[i] + ": no such corpus file or folder; check the path given with --corpus or --off-domain"};
    }
    roots.push_back({paths[i], "", i, true});
  }
  return Walk().Run(std::move(roots));
}

}  // namespace pointsman
