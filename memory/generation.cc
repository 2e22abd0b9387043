#include "memory/generation.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "memory/hash.h"
#include "memory/memory.h"
#include "memory/routing_tables_owned.h"
#include "memory/section_file.h"

namespace pointsman {
namespace {

// Parameter blocks: one element of a kParameters section. No padding, so that files are the same bytes every time.
struct TablesParameters {
  uint32_t kind, value_kind, top_k, layer_count;
  uint64_t document_count;
};
static_assert(sizeof(TablesParameters) == 24);

struct LayerParameters {
  int32_t layer;
  uint32_t experts, hidden, dim;
  uint64_t rows, token_rows;
  int32_t k;
  float tau, tau2, scale;
  uint32_t confidence, references_per_row;
};
static_assert(sizeof(LayerParameters) == 56);

struct GateParameters {
  uint32_t enabled;
  float n0, prior, common, lo, hi;
  uint32_t window, reserved;
  uint64_t pairs;
};
static_assert(sizeof(GateParameters) == 40);

// Of one group of the gate, where there are several.
struct GateRamp {
  float prior, lo, hi;
};
static_assert(sizeof(GateRamp) == 12);

struct OutputParameters {
  uint32_t vocabulary;
  int32_t k;
  float tau, lambda, tau2;
  uint32_t hidden, dim, reserved;
  uint64_t rows;
};
static_assert(sizeof(OutputParameters) == 40);

// Optional parts of a generation, by their number in documents.bin: a reader that does not know one refuses.
constexpr uint32_t kOutputPart = 1;      // output.bin
constexpr uint32_t kGateGroupsPart = 2;  // groups in gate.bin
constexpr uint32_t kTokenIdsPart = 3;    // token tables of some tokens alone

struct Parts {
  bool output = false;
  bool gate_groups = false;
  bool token_ids = false;
};

using Sections = std::vector<SectionData>;

template <typename T>
void Add(Sections* sections, SectionType type, std::span<const T> values, uint64_t rows, uint64_t columns) {
  if (!values.empty()) sections->push_back(SectionOf(type, values, rows, columns));
}

template <typename T>
void AddParameters(Sections* sections, const T& parameters) {
  sections->push_back(SectionOf(SectionType::kParameters, std::span<const T>(&parameters, 1), 1, 1));
}

void AddKeys(Sections* sections, const KeyIndexView& keys) {
  Add(sections, SectionType::kMean, keys.mean, 1, keys.hidden);
  Add(sections, SectionType::kProjection, keys.projection, keys.dim, keys.hidden);
  Add(sections, SectionType::kCodes, keys.codes, keys.rows, keys.dim);
  Add(sections, SectionType::kCodeScales, keys.code_scales, keys.rows, 1);
}

// Texts as one array of bytes and where each begins and ends in it; the sections view into this.
struct PackedNames {
  void Append(const std::string& name) {
    bytes += name;
    offsets.push_back(bytes.size());
  }
  void AddTo(Sections* sections) const {
    Add<uint64_t>(sections, SectionType::kNameOffsets, offsets, offsets.size(), 1);
    Add<char>(sections, SectionType::kNames, bytes, bytes.size(), 1);
  }

  std::string bytes;
  std::vector<uint64_t> offsets{0};
};

std::filesystem::path LayerPath(const std::filesystem::path& directory, int32_t layer) {
  return directory / fmt::format("layer-{:03}.bin", layer);
}

Status WriteLayer(FileSystem& files, const std::filesystem::path& directory, uint64_t set_id, const LayerView& layer) {
  const uint64_t rows = layer.keys.rows, token_rows = layer.token_table_scales.size();
  const uint64_t references_per_row = rows == 0 ? 0 : layer.references.size() / rows;
  const LayerCalibration& calibration = layer.calibration;
  const LayerParameters parameters{layer.layer,
                                   layer.experts,
                                   layer.keys.hidden,
                                   layer.keys.dim,
                                   rows,
                                   token_rows,
                                   calibration.k,
                                   calibration.tau,
                                   calibration.tau2,
                                   calibration.scale,
                                   static_cast<uint32_t>(calibration.confidence),
                                   static_cast<uint32_t>(references_per_row)};
  Sections sections;
  AddParameters(&sections, parameters);
  AddKeys(&sections, layer.keys);
  Add(&sections, SectionType::kValues, layer.values, rows, layer.experts);
  Add(&sections, SectionType::kValueScales, layer.value_scales, rows, 1);
  Add(&sections, SectionType::kReferences, layer.references, rows, references_per_row);
  Add(&sections, SectionType::kRouterDelta, layer.router_delta, layer.experts, layer.keys.hidden);
  Add(&sections, SectionType::kTokenTable, layer.token_table, token_rows, layer.experts);
  Add(&sections, SectionType::kTokenTableScales, layer.token_table_scales, token_rows, 1);
  Add(&sections, SectionType::kTokenIds, layer.token_ids, layer.token_ids.size(), 1);
  return WriteSectionFile(files, LayerPath(directory, layer.layer), DerivedKind::kLayer, set_id, sections);
}

Status WriteGate(FileSystem& files, const std::filesystem::path& directory, uint64_t set_id, const GateView& gate) {
  const uint64_t pairs = gate.pairs.size();
  const GateGroup& first = gate.groups.front();
  const GateParameters parameters{gate.enabled, gate.n0,     first.prior, gate.common, first.lo,
                                  first.hi,     gate.window, 0,           pairs};
  PackedNames names;
  std::vector<GateRamp> ramps;
  for (const GateGroup& group : gate.groups) {
    names.Append(group.name);
    ramps.push_back({group.prior, group.lo, group.hi});
  }
  Sections sections;
  AddParameters(&sections, parameters);
  Add(&sections, SectionType::kTokenPairs, gate.pairs, pairs, 1);
  Add(&sections, SectionType::kCommonPairs, gate.is_common, pairs, 1);
  if (ramps.size() > 1) {
    Add<GateRamp>(&sections, SectionType::kGateRamps, ramps, ramps.size(), 1);
    Add(&sections, SectionType::kPairGroups, gate.pair_groups, pairs, 1);
    names.AddTo(&sections);
  }
  return WriteSectionFile(files, directory / "gate.bin", DerivedKind::kGate, set_id, sections);
}

Status WriteOutput(FileSystem& files, const std::filesystem::path& directory, uint64_t set_id,
                   const OutputView& output) {
  const uint64_t rows = output.keys.rows;
  const OutputParameters parameters{output.vocabulary,  output.k,        output.tau, output.lambda, output.tau2,
                                    output.keys.hidden, output.keys.dim, 0,          rows};
  Sections sections;
  AddParameters(&sections, parameters);
  AddKeys(&sections, output.keys);
  Add(&sections, SectionType::kNextTokens, output.next_tokens, rows, 1);
  Add(&sections, SectionType::kReferences, output.references, rows, 1);
  return WriteSectionFile(files, directory / "output.bin", DerivedKind::kOutput, set_id, sections);
}

Status WriteDocuments(FileSystem& files, const std::filesystem::path& directory, uint64_t set_id,
                      const RoutingTables& tables) {
  std::vector<int32_t> layers;
  for (const LayerView& layer : tables.layers) layers.push_back(layer.layer);
  PackedNames names;
  for (const std::string& name : tables.documents) names.Append(name);
  const TablesParameters parameters{static_cast<uint32_t>(tables.kind), static_cast<uint32_t>(tables.value_kind),
                                    tables.top_k, static_cast<uint32_t>(layers.size()), tables.documents.size()};
  Sections sections;
  AddParameters(&sections, parameters);
  Add<int32_t>(&sections, SectionType::kLayerNumbers, layers, layers.size(), 1);
  names.AddTo(&sections);
  std::vector<uint32_t> parts;
  if (tables.output.enabled) parts.push_back(kOutputPart);
  if (tables.gate.groups.size() > 1) parts.push_back(kGateGroupsPart);
  if (std::ranges::any_of(tables.layers, [](const LayerView& layer) { return !layer.token_ids.empty(); })) {
    parts.push_back(kTokenIdsPart);
  }
  Add<uint32_t>(&sections, SectionType::kParts, parts, parts.size(), 1);
  return WriteSectionFile(files, directory / "documents.bin", DerivedKind::kDocuments, set_id, sections);
}

// The same for every file of a generation and for no other generation, so that files cannot be mixed up.
uint64_t SetId(const RoutingTables& tables) {
  std::string identity = Digest(tables);
  for (const std::string& name : tables.documents) identity += '\n' + name;
  for (const GateGroup& group : tables.gate.groups) {
    if (!group.name.empty()) identity += "\ngate " + group.name;
  }
  return Xxh3(identity);
}

Status WriteFiles(FileSystem& files, const std::filesystem::path& directory, const RoutingTables& tables) {
  const uint64_t set_id = SetId(tables);
  POINTSMAN_CHECK_OK(files.CreateDirectories(directory));
  for (const LayerView& layer : tables.layers) POINTSMAN_CHECK_OK(WriteLayer(files, directory, set_id, layer));
  POINTSMAN_CHECK_OK(WriteGate(files, directory, set_id, tables.gate));
  if (tables.output.enabled) POINTSMAN_CHECK_OK(WriteOutput(files, directory, set_id, tables.output));
  POINTSMAN_CHECK_OK(WriteDocuments(files, directory, set_id, tables));
  return files.SyncDirectory(directory);
}

template <typename T>
Result<T> Parameters(const SectionFile& file) {
  POINTSMAN_TRY(const std::span<const T> parameters, file.Get<T>(SectionType::kParameters, 1, 1));
  return parameters[0];
}

// The sections of a search. An index without rows has no codes: the sections are absent and the spans empty.
Result<KeyIndexView> MapKeys(const SectionFile& file, uint32_t hidden, uint32_t dim, uint64_t rows) {
  KeyIndexView keys;
  keys.hidden = hidden;
  keys.dim = dim;
  keys.rows = rows;
  POINTSMAN_TRY(keys.mean, file.GetOptional<float>(SectionType::kMean, 1, hidden));
  POINTSMAN_TRY(keys.projection, file.GetOptional<float>(SectionType::kProjection, dim, hidden));
  POINTSMAN_TRY(keys.codes, file.GetOptional<int8_t>(SectionType::kCodes, rows, dim));
  POINTSMAN_TRY(keys.code_scales, file.GetOptional<float>(SectionType::kCodeScales, rows, 1));
  return keys;
}

Result<LayerView> MapLayer(const SectionFile& file, bool may_have_token_ids) {
  POINTSMAN_TRY(const LayerParameters parameters, Parameters<LayerParameters>(file));
  const uint64_t rows = parameters.rows, token_rows = parameters.token_rows;
  LayerView layer;
  layer.layer = parameters.layer;
  layer.experts = parameters.experts;
  layer.calibration = {parameters.k, parameters.tau, parameters.tau2, parameters.scale,
                       static_cast<ConfidenceRule>(parameters.confidence)};
  if (parameters.confidence > static_cast<uint32_t>(ConfidenceRule::kAggregate)) {
    return DerivedError(file.path(), fmt::format("unknown confidence rule {}", parameters.confidence));
  }
  POINTSMAN_TRY(layer.keys, MapKeys(file, parameters.hidden, parameters.dim, rows));
  POINTSMAN_TRY(layer.values, file.GetOptional<int8_t>(SectionType::kValues, rows, layer.experts));
  POINTSMAN_TRY(layer.value_scales, file.GetOptional<float>(SectionType::kValueScales, rows, 1));
  POINTSMAN_TRY(layer.references,
                file.GetOptional<EntryRef>(SectionType::kReferences, rows, parameters.references_per_row));
  POINTSMAN_TRY(layer.router_delta,
                file.GetOptional<float>(SectionType::kRouterDelta, layer.experts, parameters.hidden));
  POINTSMAN_TRY(layer.token_table, file.GetOptional<int8_t>(SectionType::kTokenTable, token_rows, layer.experts));
  POINTSMAN_TRY(layer.token_table_scales, file.GetOptional<float>(SectionType::kTokenTableScales, token_rows, 1));
  if (may_have_token_ids) {
    POINTSMAN_TRY(layer.token_ids,
                  file.GetOptional<uint32_t>(SectionType::kTokenIds, file.Rows(SectionType::kTokenIds), 1));
  }
  return layer;
}

Result<std::vector<std::string>> MapNames(const SectionFile& file, uint64_t count) {
  const uint64_t size = file.Rows(SectionType::kNames), ends = file.Rows(SectionType::kNameOffsets);
  if (ends == 0 || ends - 1 != count) return DerivedError(file.path(), "names are missing");
  POINTSMAN_TRY(const auto offsets, file.Get<uint64_t>(SectionType::kNameOffsets, count + 1, 1));
  POINTSMAN_TRY(const auto text, file.GetOptional<char>(SectionType::kNames, size, 1));
  std::vector<std::string> names;
  for (uint64_t i = 0; i < count; ++i) {
    if (offsets[i] > offsets[i + 1] || offsets[i + 1] > size) return DerivedError(file.path(), "names overlap");
    names.emplace_back(text.data() + offsets[i], offsets[i + 1] - offsets[i]);
  }
  return names;
}

Result<GateView> MapGate(const SectionFile& file, bool has_groups) {
  POINTSMAN_TRY(const GateParameters parameters, Parameters<GateParameters>(file));
  GateView gate;
  gate.enabled = parameters.enabled != 0;
  gate.n0 = parameters.n0;
  gate.common = parameters.common;
  gate.window = parameters.window;
  gate.groups = {GateGroup{.name = "", .prior = parameters.prior, .lo = parameters.lo, .hi = parameters.hi}};
  POINTSMAN_TRY(gate.pairs, file.GetOptional<uint64_t>(SectionType::kTokenPairs, parameters.pairs, 1));
  POINTSMAN_TRY(gate.is_common, file.GetOptional<uint8_t>(SectionType::kCommonPairs, parameters.pairs, 1));
  if (!has_groups) return gate;
  const uint64_t count = file.Rows(SectionType::kGateRamps);
  if (count < 2 || count > kMostGateGroups) {
    return DerivedError(file.path(), fmt::format("has {} groups; 2 to {} are possible", count, kMostGateGroups));
  }
  POINTSMAN_TRY(const auto ramps, file.Get<GateRamp>(SectionType::kGateRamps, count, 1));
  POINTSMAN_TRY(const std::vector<std::string> names, MapNames(file, count));
  gate.groups.clear();
  for (uint64_t i = 0; i < count; ++i) {
    gate.groups.push_back({.name = names[i], .prior = ramps[i].prior, .lo = ramps[i].lo, .hi = ramps[i].hi});
  }
  POINTSMAN_TRY(gate.pair_groups, file.GetOptional<uint16_t>(SectionType::kPairGroups, parameters.pairs, 1));
  return gate;
}

Result<OutputView> MapOutput(const SectionFile& file) {
  POINTSMAN_TRY(const OutputParameters parameters, Parameters<OutputParameters>(file));
  OutputView output;
  output.enabled = true;
  output.vocabulary = parameters.vocabulary;
  output.k = parameters.k;
  output.tau = parameters.tau;
  output.lambda = parameters.lambda;
  output.tau2 = parameters.tau2;
  POINTSMAN_TRY(output.keys, MapKeys(file, parameters.hidden, parameters.dim, parameters.rows));
  POINTSMAN_TRY(output.next_tokens, file.GetOptional<int32_t>(SectionType::kNextTokens, parameters.rows, 1));
  POINTSMAN_TRY(output.references, file.GetOptional<EntryRef>(SectionType::kReferences, parameters.rows, 1));
  return output;
}

Result<Parts> PartsOf(const SectionFile& documents) {
  POINTSMAN_TRY(const auto numbers,
                documents.GetOptional<uint32_t>(SectionType::kParts, documents.Rows(SectionType::kParts), 1));
  Parts parts;
  for (const uint32_t part : numbers) {
    if (part == kOutputPart) {
      parts.output = true;
    } else if (part == kGateGroupsPart) {
      parts.gate_groups = true;
    } else if (part == kTokenIdsPart) {
      parts.token_ids = true;
    } else {
      return DerivedError(documents.path(), fmt::format("names an unknown part {}", part));
    }
  }
  return parts;
}

struct Storage {
  std::vector<std::shared_ptr<const MappedFile>> files;
};

}  // namespace

Status WriteGeneration(FileSystem& files, const std::filesystem::path& directory, const RoutingTables& tables) {
  POINTSMAN_CHECK_OK(CheckTables(tables));
  std::filesystem::path temporary = directory;
  temporary += ".tmp";
  auto write = [&]() -> Status {
    POINTSMAN_CHECK_OK(files.Remove(temporary));
    POINTSMAN_CHECK_OK(WriteFiles(files, temporary, tables));
    // A directory can only be renamed over an empty one.
    if (files.Exists(directory)) POINTSMAN_CHECK_OK(files.Remove(directory));
    return files.Rename(temporary, directory);
  };
  if (Status written = write(); !written.ok()) {
    // The first error is the one to report; a temporary that stays is swept at the next open.
    [[maybe_unused]] Status removed = files.Remove(temporary);
    return written;
  }
  const std::filesystem::path parent = directory.parent_path();
  return files.SyncDirectory(parent.empty() ? "." : parent);
}

Result<RoutingTables> MapGeneration(FileSystem& files, const std::filesystem::path& directory, bool load_to_ram,
                                    bool verify) {
  const SectionFile::Options options{load_to_ram, verify};
  auto storage = std::make_shared<Storage>();
  uint64_t set_id = 0;
  auto open = [&](const std::filesystem::path& path, DerivedKind kind) -> Result<SectionFile> {
    if (!files.Exists(path)) {
      return Error{ErrorCode::kNotFound,
                   fmt::format("{}: is missing; run `pointsman verify --repair MEM`", path.string())};
    }
    POINTSMAN_TRY(SectionFile file, SectionFile::Open(files, path, kind, options));
    if (!storage->files.empty() && file.set_id() != set_id) {
      return DerivedError(path, "belongs to another generation than documents.bin beside it");
    }
    set_id = file.set_id();
    storage->files.push_back(file.storage());
    return file;
  };

  RoutingTables tables;
  POINTSMAN_TRY(const SectionFile documents, open(directory / "documents.bin", DerivedKind::kDocuments));
  POINTSMAN_TRY(const TablesParameters parameters, Parameters<TablesParameters>(documents));
  if (parameters.kind > static_cast<uint32_t>(MemoryKind::kPrototypes) ||
      parameters.value_kind > static_cast<uint32_t>(ValueKind::kAssignments)) {
    return DerivedError(documents.path(), "unknown kind of memory or of values");
  }
  tables.kind = static_cast<MemoryKind>(parameters.kind);
  tables.value_kind = static_cast<ValueKind>(parameters.value_kind);
  tables.top_k = parameters.top_k;
  POINTSMAN_TRY(const Parts parts, PartsOf(documents));
  POINTSMAN_TRY(tables.documents, MapNames(documents, parameters.document_count));
  POINTSMAN_TRY(const auto layers,
                documents.GetOptional<int32_t>(SectionType::kLayerNumbers, parameters.layer_count, 1));
  for (const int32_t layer : layers) {
    const std::filesystem::path path = LayerPath(directory, layer);
    POINTSMAN_TRY(const SectionFile file, open(path, DerivedKind::kLayer));
    POINTSMAN_TRY(LayerView view, MapLayer(file, parts.token_ids));
    if (view.layer != layer) return DerivedError(path, fmt::format("holds layer {}", view.layer));
    tables.layers.push_back(view);
  }
  POINTSMAN_TRY(const SectionFile gate, open(directory / "gate.bin", DerivedKind::kGate));
  POINTSMAN_TRY(tables.gate, MapGate(gate, parts.gate_groups));
  if (parts.output) {
    POINTSMAN_TRY(const SectionFile output, open(directory / "output.bin", DerivedKind::kOutput));
    POINTSMAN_TRY(tables.output, MapOutput(output));
  }
  tables.storage = std::move(storage);
  if (Status sound = CheckTables(tables); !sound.ok()) return DerivedError(directory, sound.error().message);
  return tables;
}

}  // namespace pointsman
