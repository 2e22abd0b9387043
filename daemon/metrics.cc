#include "daemon/metrics.h"

#include <dirent.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <map>
#include <string_view>

namespace pointsman {
namespace {

// Backslash, quote and line break as the format asks; nothing else is special.
std::string Escape(const std::string& text, bool quotes) {
  std::string escaped;
  for (const char c : text) {
    if (c == '\\') {
      escaped += "\\\\";
    } else if (c == '\n') {
      escaped += "\\n";
    } else if (c == '"' && quotes) {
      escaped += "\\\"";
    } else {
      escaped += c;
    }
  }
  return escaped;
}

std::string Number(double value) {
  if (std::isnan(value)) return "NaN";
  if (std::isinf(value)) return value > 0 ? "+Inf" : "-Inf";
  return fmt::format("{}", value);
}

std::string Join(const Labels& labels) {
  std::string text;
  for (const auto& [name, value] : labels) {
    if (!text.empty()) text += ',';
    text += fmt::format("{}=\"{}\"", name, Escape(value, true));
  }
  return text;
}

// `joined` is what Join gives, `extra` one more label or nothing.
std::string Braces(const std::string& joined, const std::string& extra = {}) {
  if (joined.empty() && extra.empty()) return {};
  return "{" + joined + (joined.empty() || extra.empty() ? "" : ",") + extra + "}";
}

uint64_t OpenFiles() {
  DIR* folder = opendir("/proc/self/fd");
  if (!folder) return 0;
  uint64_t count = 0;
  while (const dirent* entry = readdir(folder)) count += entry->d_name[0] != '.';
  closedir(folder);
  return count - 1;  // the folder's own
}

// Fields of /proc/self/stat after the command's name, which may hold spaces; the first is the state (field 3).
std::vector<std::string> ProcessFields() {
  std::ifstream in("/proc/self/stat");
  std::string line;
  std::getline(in, line);
  std::vector<std::string> fields;
  const size_t end = line.rfind(')');
  if (end == std::string::npos) return fields;
  std::string_view rest = std::string_view(line).substr(end + 1);
  while (!rest.empty()) {
    rest.remove_prefix(std::min(rest.find_first_not_of(' '), rest.size()));
    const size_t length = std::min(rest.find(' '), rest.size());
    if (length > 0) fields.emplace_back(rest.substr(0, length));
    rest.remove_prefix(length);
  }
  return fields;
}

double ProcessField(size_t number) {
  const std::vector<std::string> fields = ProcessFields();
  return number - 3 < fields.size() ? std::strtod(fields[number - 3].c_str(), nullptr) : 0;
}

double BootTime() {
  std::ifstream in("/proc/stat");
  for (std::string word; in >> word;) {
    double value = 0;
    if (word == "btime" && in >> value) return value;
  }
  return 0;
}

}  // namespace

void Counter::Add(double amount) { value_.fetch_add(amount, std::memory_order_relaxed); }
double Counter::value() const { return value_.load(std::memory_order_relaxed); }

void Gauge::Set(double value) { value_.store(value, std::memory_order_relaxed); }
void Gauge::Add(double amount) { value_.fetch_add(amount, std::memory_order_relaxed); }
double Gauge::value() const { return value_.load(std::memory_order_relaxed); }

Histogram::Histogram(std::vector<double> upper_bounds)
    : upper_bounds_(std::move(upper_bounds)), counts_(upper_bounds_.size() + 1) {}

void Histogram::Observe(double value) {
  const size_t bucket = std::ranges::lower_bound(upper_bounds_, value) - upper_bounds_.begin();
  counts_[bucket].fetch_add(1, std::memory_order_relaxed);
  sum_.fetch_add(value, std::memory_order_relaxed);
}

uint64_t Histogram::count() const { return CumulativeCounts().back(); }
double Histogram::sum() const { return sum_.load(std::memory_order_relaxed); }

std::vector<uint64_t> Histogram::CumulativeCounts() const {
  std::vector<uint64_t> cumulative;
  uint64_t total = 0;
  for (const auto& count : counts_) cumulative.push_back(total += count.load(std::memory_order_relaxed));
  return cumulative;
}

double Histogram::Quantile(double q) const {
  const std::vector<uint64_t> cumulative = CumulativeCounts();
  const double rank = q * static_cast<double>(cumulative.back());
  if (cumulative.back() == 0) return 0;
  const size_t bucket =
      std::ranges::lower_bound(cumulative, rank, {}, [](uint64_t c) { return static_cast<double>(c); }) -
      cumulative.begin();
  if (bucket >= upper_bounds_.size()) return upper_bounds_.empty() ? 0 : upper_bounds_.back();
  const double low = bucket == 0 ? 0 : upper_bounds_[bucket - 1];
  const double before = bucket == 0 ? 0 : static_cast<double>(cumulative[bucket - 1]);
  const double inside = static_cast<double>(cumulative[bucket]) - before;
  return inside == 0 ? low : low + (upper_bounds_[bucket] - low) * (rank - before) / inside;
}

std::vector<double> LatencyBuckets() { return {.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60}; }

struct MetricRegistry::Impl {
  struct Sample {
    Labels labels;
    std::unique_ptr<Counter> counter;
    std::unique_ptr<Gauge> gauge;
    std::unique_ptr<Histogram> histogram;
    std::function<double()> callback;
  };
  struct Family {
    std::string help, kind;
    std::map<std::string, Sample> samples;  // by joined labels
  };

  Sample& At(const std::string& name, const std::string& help, const std::string& kind, const Labels& labels) {
    Family& family = families[name];
    if (family.kind.empty()) {
      family.help = help;
      family.kind = kind;
    }
    Sample& sample = family.samples[Join(labels)];
    sample.labels = labels;
    return sample;
  }

  mutable std::mutex mutex;
  std::map<std::string, Family> families;
};

MetricRegistry::MetricRegistry() : impl_(std::make_unique<Impl>()) {}
MetricRegistry::~MetricRegistry() = default;

Counter& MetricRegistry::AddCounter(const std::string& name, const std::string& help, const Labels& labels) {
  const std::lock_guard lock(impl_->mutex);
  auto& sample = impl_->At(name, help, "counter", labels);
  if (!sample.counter) sample.counter = std::make_unique<Counter>();
  return *sample.counter;
}

Gauge& MetricRegistry::AddGauge(const std::string& name, const std::string& help, const Labels& labels) {
  const std::lock_guard lock(impl_->mutex);
  auto& sample = impl_->At(name, help, "gauge", labels);
  if (!sample.gauge) sample.gauge = std::make_unique<Gauge>();
  return *sample.gauge;
}

Histogram& MetricRegistry::AddHistogram(const std::string& name, const std::string& help,
                                        std::vector<double> upper_bounds, const Labels& labels) {
  const std::lock_guard lock(impl_->mutex);
  auto& sample = impl_->At(name, help, "histogram", labels);
  if (!sample.histogram) sample.histogram = std::make_unique<Histogram>(std::move(upper_bounds));
  return *sample.histogram;
}

void MetricRegistry::AddCallback(const std::string& name, const std::string& help, const std::string& kind,
                                 const Labels& labels, std::function<double()> value) {
  const std::lock_guard lock(impl_->mutex);
  impl_->At(name, help, kind, labels).callback = std::move(value);
}

void MetricRegistry::Remove(const std::string& label, const std::string& value) {
  const std::string pair = fmt::format("{}=\"{}\"", label, Escape(value, true));
  const std::lock_guard lock(impl_->mutex);
  for (auto& [name, family] : impl_->families) {
    std::erase_if(family.samples, [&](const auto& sample) {
      const size_t at = sample.first.find(pair);
      return at != std::string::npos && (at == 0 || sample.first[at - 1] == ',');
    });
  }
}

std::string MetricRegistry::Render(const std::function<bool(const Labels&)>& shown) const {
  const std::lock_guard lock(impl_->mutex);
  std::string text;
  for (const auto& [name, family] : impl_->families) {
    if (family.samples.empty()) continue;
    text += fmt::format("# HELP {} {}\n# TYPE {} {}\n", name, Escape(family.help, false), name, family.kind);
    for (const auto& [labels, sample] : family.samples) {
      if (shown && !shown(sample.labels)) continue;
      if (sample.callback) text += fmt::format("{}{} {}\n", name, Braces(labels), Number(sample.callback()));
      if (sample.counter) text += fmt::format("{}{} {}\n", name, Braces(labels), Number(sample.counter->value()));
      if (sample.gauge) text += fmt::format("{}{} {}\n", name, Braces(labels), Number(sample.gauge->value()));
      if (!sample.histogram) continue;
      const std::vector<uint64_t> counts = sample.histogram->CumulativeCounts();
      const std::vector<double>& bounds = sample.histogram->upper_bounds();
      for (size_t i = 0; i < counts.size(); ++i) {
        const std::string bound = i < bounds.size() ? Number(bounds[i]) : "+Inf";
        text += fmt::format("{}_bucket{} {}\n", name, Braces(labels, "le=\"" + bound + "\""), counts[i]);
      }
      text += fmt::format("{}_sum{} {}\n{}_count{} {}\n", name, Braces(labels), Number(sample.histogram->sum()), name,
                          Braces(labels), counts.back());
    }
  }
  return text;
}

void AddProcessMetrics(MetricRegistry& registry) {
  const auto ticks = static_cast<double>(sysconf(_SC_CLK_TCK));
  const auto page = static_cast<double>(sysconf(_SC_PAGESIZE));
  registry.AddCallback("process_resident_memory_bytes", "Memory of the process in RAM.", "gauge", {},
                       [page] { return ProcessField(24) * page; });
  registry.AddCallback("process_open_fds", "Open file descriptors.", "gauge", {},
                       [] { return static_cast<double>(OpenFiles()); });
  registry.AddCallback("process_cpu_seconds_total", "User and system time.", "counter", {},
                       [ticks] { return (ProcessField(14) + ProcessField(15)) / ticks; });
  registry.AddCallback("process_start_time_seconds", "When the process started, Unix time.", "gauge", {},
                       [ticks] { return BootTime() + ProcessField(22) / ticks; });
}

}  // namespace pointsman
