// A generation: one published, immutable derived index, derived/gen-NNN/ (docs/formats.md).
//
//   documents.bin   what the memory is (kind, value kind, top-k), which layers it has, the documents' names
//   gate.bin        the context gate and its token pairs
//   output.bin      the output memory, if there is one (documents.bin then names it among its parts)
//   layer-NNN.bin   keys, values, references, transform, calibration and trained parts of one layer
//
// A pipeline rank that hosts some layers reads only their files' pages. Thread-safe: plain functions.
#pragma once

#include <filesystem>

#include "memory/file_layer.h"
#include "memory/result.h"
#include "memory/routing_tables.h"

namespace pointsman {

// Writes `directory` by way of `directory`.tmp: every file synced, renamed as a whole, parent synced. After an error
// or a crash `directory` is not there or as it was. An existing one is replaced (repair). The parent must exist.
// Errors: those of CheckTables, kNoSpace, kIo.
Status WriteGeneration(FileSystem& files, const std::filesystem::path& directory, const RoutingTables& tables);

// Views into the mapped files (or, with `load_to_ram`, into private copies), which the result's `storage` keeps alive.
// Everything is validated before it is returned; `verify` also hashes every block first.
// Errors: kCorrupt (names the file; `pointsman verify --repair MEM`), kNotFound (a file is missing), kUnsupported
// (newer format version).
Result<RoutingTables> MapGeneration(FileSystem& files, const std::filesystem::path& directory, bool load_to_ram,
                                    bool verify);

}  // namespace pointsman
