{
  "targets": [{
    "target_name": "hicache_nixl",
    "sources": ["<!@(node -p \"require('fs').readdirSync('addon',{recursive:true}).map(f=>'addon/'+f).filter(f=>f.endsWith('.cc')&&!f.startsWith('addon/test/')).sort().join(' ')\")"],
    "include_dirs": ["addon", "<!(node -p \"require('node-addon-api').include_dir\")"],
    "defines": ["NAPI_VERSION=9", "NODE_ADDON_API_DISABLE_CPP_EXCEPTIONS", "NODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS"],
    "cflags": ["-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter", "-fvisibility=hidden", "-O2", "-g1", "-ffunction-sections", "-fdata-sections"],
    "cflags_cc!": ["-fno-rtti", "-fno-exceptions", "-std=gnu++17", "-std=gnu++20"],
    "cflags_cc": ["-std=c++20", "-fexceptions"],
    "ldflags": ["-Wl,-z,nodelete", "-static-libstdc++", "-static-libgcc", "-Wl,--exclude-libs,ALL", "-Wl,--gc-sections"],
    "libraries": ["-lpthread", "-ldl"]
  }]
}
