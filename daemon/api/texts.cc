#include "daemon/api/texts.h"

namespace pointsman {

std::shared_ptr<const DocumentTexts> DocumentTextCache::Of(const LoadedMemory& memory) {
  const std::lock_guard lock(mutex_);  // held while reading: a second caller would only read the same
  Entry& entry = by_id_[memory.id];
  const std::string& digest = memory.memory->manifest().digest;
  if (entry.generation == memory.generation && entry.digest == digest) return entry.texts;
  entry = {memory.generation, digest, nullptr};
  const auto truth = memory.memory->OpenTruth();
  if (!truth.ok()) return nullptr;
  Result<DocumentTexts> texts = DocumentTexts::Load(*truth.value(), tokenizer_);
  if (texts.ok()) entry.texts = std::make_shared<const DocumentTexts>(std::move(texts).value());
  return entry.texts;
}

}  // namespace pointsman
