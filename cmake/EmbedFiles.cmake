# Writes a C++ source that holds files byte for byte:
#   cmake -DFOLDER=dir -DNAMES=a.html,b.css -DOUT=file.cc -P EmbedFiles.cmake
# Run by pointsman_embed_web (PointsmanModule.cmake). Hex escapes: no byte of a file can end the literal early.
string(REPLACE "," ";" names "${NAMES}")
list(SORT names)
set(entries "")
foreach(name IN LISTS names)
  file(READ "${FOLDER}/${name}" bytes HEX)
  file(SHA256 "${FOLDER}/${name}" digest)
  string(LENGTH "${bytes}" digits)
  math(EXPR size "${digits} / 2")
  string(REGEX REPLACE "(..)" "\\\\x\\1" literal "${bytes}")
  string(APPEND entries "    {\"${name}\", std::string_view(\"${literal}\", ${size}), \"${digest}\"},\n")
endforeach()
file(WRITE "${OUT}" "#include \"daemon/web/web_files.h\"

namespace pointsman {
namespace {

constexpr WebFile kFiles[] = {
${entries}};

}  // namespace

std::span<const WebFile> WebFiles() { return kFiles; }

}  // namespace pointsman
")
