#!/bin/sh
# tools/build_checks.sh SOURCE OUT "ISAS" COMPILER [FLAGS...]: a program of checks (SOURCE) with the
# kernels of these instruction sets, each with CMakeLists.txt's flags for it.
set -e
source=$1 out=$2 isas=$3
shift 3
csrc=puna/native/csrc
avx2="-mavx2 -mfma -mf16c"
avx512="$avx2 -mavx512f -mavx512dq -mavx512bw -mavx512vl -mavx512vnni"
amx="$avx512 -mavx512bf16 -mamx-tile -mamx-bf16 -mamx-int8"
common="-std=c++17 -g -I$csrc"
kernels="-ffp-contract=off -fno-exceptions -fno-rtti"
objects="" built=""
mkdir -p "$out.o"
for isa in $isas; do
  case $isa in
    avx2) flags=$avx2 ;;
    avx512) flags=$avx512 ;;
    amx) flags=$amx ;;
    *) flags="" ;;
  esac
  define=-DHAS_$(echo "$isa" | tr a-z A-Z)_BUILD
  built="$built $define"
  "$@" $common $kernels $flags $define -c $csrc/inference/$isa.cpp -o "$out.o/$isa.o"
  objects="$objects $out.o/$isa.o"
  if [ "$isa" = amx ]; then
    "$@" $common $flags $define -c $csrc/amx.cpp -o "$out.o/training.o"
    objects="$objects $out.o/training.o"
  fi
done
"$@" $common $built "$source" $csrc/isa.cpp $csrc/team.cpp $csrc/inference/engine.cpp \
  $csrc/inference/crew.cpp $csrc/inference/packing.cpp $objects -pthread -o "$out"
