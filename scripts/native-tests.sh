#!/usr/bin/env bash
# Builds and runs the native test programs (addon/test/NAME_test.cc, each with a main of its own): all of them under the address
# and the undefined-behaviour sanitizer, then those that include <thread> under the thread sanitizer, where it can run.
#
#   scripts/native-tests.sh [NAME...]      only these (`engines fault`); default: all
#   NATIVE_TEST_DIR=/mnt/disk ...          where they keep their files (default: $TMPDIR, else /tmp); a real disk is best
#
# A program is linked against everything under addon/ that needs neither Node nor libuv. Products lie under build/native-tests
# and are reused. The stand-in libraries of spec/support/stand-ins are built beside them, with the same sanitizers, as
# $HICACHE_STAND_INS/libNAME.so.
set -euo pipefail
cd "$(dirname "$0")/.."

out=build/native-tests
files=${NATIVE_TEST_DIR:-${TMPDIR:-/tmp}}
jobs=$(nproc)
cxx=${CXX:-g++}
flags='-std=c++20 -O1 -g1 -Wall -Wextra -Werror -Wno-unused-parameter -fno-omit-frame-pointer -fvisibility=hidden -Iaddon'
mkdir -p "$out"

# Sources that see Node's headers, directly or through a header of ours, stay out.
host='^[[:space:]]*#[[:space:]]*include[[:space:]]*[<"](napi|node_api|js_native_api|uv|node|v8)\.h[>"]'
host_headers=$(grep -rlE --include='*.h' "$host" addon || true)
while :; do
  pattern=$host
  for header in $host_headers; do pattern+="|#[[:space:]]*include[[:space:]]*\"([^\"]*/)?$(basename "$header" | sed 's/[.]/\\./g')\""; done
  more=$(grep -rlE --include='*.h' "$pattern" addon || true)
  [[ "$more" == "$host_headers" ]] && break
  host_headers=$more
done
sources=$(find addon -name '*.cc' -not -path 'addon/test/*' -print0 | xargs -0 grep -LE "$pattern" | sort || true)

tests=()
if (($# > 0)); then
  for name in "$@"; do tests+=("addon/test/${name%_test}_test.cc"); done
else
  for source in addon/test/*_test.cc; do tests+=("$source"); done
fi

# build KIND SANITIZER SOURCE...: the programs under $out/KIND.
build() {
  local kind=$1 sanitizer=$2; shift 2
  local objects='' programs='' source
  for source in $sources; do objects+=" $out/$kind/${source%.cc}.o"; done
  for source in "$@"; do programs+=" $out/$kind/$(basename "${source%.cc}")"; done
  for source in spec/support/stand-ins/*.cc; do
    if [[ -e "$source" ]]; then programs+=" $out/$kind/lib$(basename "${source%.cc}").so"; fi
  done
  mkdir -p "$out/$kind"
  {
    echo "all:$programs"
    echo ".SECONDARY:"
    echo "$out/$kind/%.o: %.cc $out/$kind/Makefile.flags"
    echo "	@mkdir -p \$(@D)"
    echo "	$cxx $flags $sanitizer -MMD -MP -c \$< -o \$@"
    # An archive: a program pulls only what it uses, so that what is half written elsewhere does not break its link.
    echo "$out/$kind/addon.a:$objects"
    echo "	rm -f \$@ && ar rcs \$@ \$^"
    for source in "$@"; do
      echo "$out/$kind/$(basename "${source%.cc}"): $out/$kind/${source%.cc}.o $out/$kind/addon.a"
      echo "	$cxx $sanitizer -o \$@ \$^ -lpthread -ldl"
    done
    echo "$out/$kind/lib%.so: spec/support/stand-ins/%.cc spec/support/stand-ins/stand_in.h $out/$kind/Makefile.flags"
    echo "	$cxx $flags -Ispec/support/stand-ins $sanitizer -shared -fPIC -o \$@ \$< -lpthread -ldl"
    echo "-include \$(shell find $out/$kind -name '*.d' 2>/dev/null)"
  } > "$out/$kind/Makefile"
  # Other flags, other objects.
  if [[ "$(cat "$out/$kind/Makefile.flags" 2>/dev/null)" != "$cxx $flags $sanitizer" ]]; then
    echo "$cxx $flags $sanitizer" > "$out/$kind/Makefile.flags"
  fi
  make --silent -j"$jobs" -f "$out/$kind/Makefile" all
}

# run KIND SOURCE...: with $wrapper before each.
failed=()
run() {
  local kind=$1 source name; shift
  export HICACHE_STAND_INS=$PWD/$out/$kind
  for source in "$@"; do
    name=$(basename "${source%.cc}")
    echo "== $kind: $name"
    if ! timeout --kill-after=5 "${NATIVE_TEST_SECONDS:-120}" ${wrapper:-} "$out/$kind/$name" "$files"; then failed+=("$kind: $name"); fi
  done
}

export ASAN_OPTIONS=${ASAN_OPTIONS:-detect_leaks=1:detect_stack_use_after_return=1:strict_string_checks=1}
export UBSAN_OPTIONS=${UBSAN_OPTIONS:-print_stacktrace=1}
build asan '-fsanitize=address,undefined -fno-sanitize-recover=all' "${tests[@]}"
run asan "${tests[@]}"

# The thread sanitizer wants a memory layout that some kernels do not give (too much randomness of addresses): try it plainly, then without
# the randomness, then say that it cannot be.
threaded=()
for source in "${tests[@]}"; do
  if grep -q '#include <thread>' "$source"; then threaded+=("$source"); fi
done
if ((${#threaded[@]} > 0)); then
  printf '#include <thread>\nint main() { int n = 0; std::thread([&] { n++; }).join(); return n - 1; }\n' > "$out/trial.cc"
  tsan=no
  if "$cxx" -std=c++20 -fsanitize=thread -o "$out/trial" "$out/trial.cc" 2> "$out/trial.log"; then
    for wrapper in '' "setarch $(uname -m) -R"; do
      if $wrapper "$out/trial" >> "$out/trial.log" 2>&1; then tsan=yes; break; fi
    done
  fi
  if [[ $tsan == yes ]]; then
    export TSAN_OPTIONS=${TSAN_OPTIONS:-halt_on_error=1:second_deadlock_stack=1}
    build tsan '-fsanitize=thread' "${threaded[@]}"
    run tsan "${threaded[@]}"
  else
    echo "== tsan: the thread sanitizer cannot run here, so NOTHING was tested with it: $(tail -n 1 "$out/trial.log")"
  fi
fi

if ((${#failed[@]} > 0)); then
  printf 'FAILED: %s\n' "${failed[@]}" >&2
  exit 1
fi
echo "native tests: ${#tests[@]} programs passed"
