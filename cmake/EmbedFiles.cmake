# Writes a C++ source that holds files byte for byte:
#   cmake -DFILES=dir/a.html,dir/b.css -DOUT=file.cc -P EmbedFiles.cmake      (by their last names)
# Run by pointsman_embed_web (PointsmanModule.cmake). Hex escapes: no byte of a file can end the literal early.
string(REPLACE "," ";" files "${FILES}")
list(SORT files COMPARE FILE_BASENAME)
set(entries "")
foreach(file IN LISTS files)
  cmake_path(GET file FILENAME name)
  file(READ "${file}" bytes HEX)
  file(SHA256 "${file}" digest)
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
