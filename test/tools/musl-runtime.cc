// Lets programs for Alpine run beside what Debian 12's packages give of its C++ runtime: its GCC is
// newer, and Debian's libgcc is for glibc. Only what those programs lack; the addon uses none of
// it.
#include <sys/auxv.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <string>

// Of libstdc++ since GCC 13.
namespace std {
[[noreturn]] void __glibcxx_assert_fail(const char*, int, const char*, const char*) noexcept {
  abort();
}
}  // namespace std

// basic_string::_M_replace_cold, since GCC 14: the replacement may be a part of the string itself.
extern "C" void _ZNSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEE15_M_replace_coldEPcmPKcmm(
    std::string*, char* position, size_t replaced, const char* with, size_t length, size_t after) {
  const std::string copy(with, length);
  std::memmove(position + length, position + replaced, after);
  std::copy(copy.begin(), copy.end(), position);
}

// Of glibc. No object is found: what is thrown is not caught.
extern "C" int _dl_find_object(void*, void*) { return -1; }
extern "C" unsigned long __getauxval(unsigned long type) { return getauxval(type); }

// Of libgcc.a.
extern "C" int __cpu_model[4];
int __cpu_model[4];
extern "C" int __cpu_indicator_init() { return 0; }
