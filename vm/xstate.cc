// Preloaded into User-Mode Linux, for processors with more registers than it knows of.
//
// Linux 6.1 as User-Mode Linux keeps a process's floating point registers in a buffer of fixed
// size, and sets them with PTRACE_SETREGSET. The host takes nothing but all of them (xstateregs_set
// in arch/x86/kernel/fpu/regset.c), which with Intel's AMX are four times as many: every process of
// the guest would die of its first instruction. Here what User-Mode Linux does not know of is added
// as it is.
#include <dlfcn.h>
#include <elf.h>
#include <sys/ptrace.h>
#include <sys/types.h>
#include <sys/uio.h>

#include <array>
#include <cstdarg>
#include <cstddef>
#include <cstring>

namespace {

using Ptrace = long (*)(enum __ptrace_request, ...);

// All registers of the largest processor, with AMX 11,008 bytes.
using Registers = std::array<std::byte, 16 * 1024>;

long SetRegisters(Ptrace ptrace, pid_t pid, void* set, struct iovec* given) {
  static bool known_whole = false;
  if (known_whole) return ptrace(PTRACE_SETREGSET, pid, set, given);
  alignas(64) thread_local Registers registers;
  struct iovec all = {registers.data(), registers.size()};
  if (ptrace(PTRACE_GETREGSET, pid, set, &all) < 0 || all.iov_len <= given->iov_len) {
    known_whole = true;
    return ptrace(PTRACE_SETREGSET, pid, set, given);
  }
  std::memcpy(registers.data(), given->iov_base, given->iov_len);
  return ptrace(PTRACE_SETREGSET, pid, set, &all);
}

}  // namespace

// In the place of the C library's, which this calls.
extern "C" __attribute__((visibility("default"))) long ptrace(enum __ptrace_request request, ...) {
  static const auto next = reinterpret_cast<Ptrace>(dlsym(RTLD_NEXT, "ptrace"));
  std::va_list arguments;
  va_start(arguments, request);
  const pid_t pid = va_arg(arguments, pid_t);
  void* const address = va_arg(arguments, void*);
  void* const data = va_arg(arguments, void*);
  va_end(arguments);
  if (request == PTRACE_SETREGSET && reinterpret_cast<std::size_t>(address) == NT_X86_XSTATE) {
    return SetRegisters(next, pid, address, static_cast<struct iovec*>(data));
  }
  return next(request, pid, address, data);
}
