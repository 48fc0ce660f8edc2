// Preloaded into User-Mode Linux, for processors with more registers than it knows of.
//
// Linux 6.1 as User-Mode Linux keeps a process's floating point registers in a buffer of fixed
// size, and sets them with PTRACE_SETREGSET. The host takes nothing but all of them (xstateregs_set
// in arch/x86/kernel/fpu/regset.c), which with Intel's AMX are four times as many: every process of
// the guest would die of its first instruction. Here what User-Mode Linux does not know of is added
// as it is.
//
// It also sets them after every system call and page fault, although it has hardly ever changed
// them, and the host allocates memory with vmalloc each time, which a virtual machine pays dearly:
// page tables change, on all processors. What was just read is not set again.
#include <dlfcn.h>
#include <elf.h>
#include <sys/ptrace.h>
#include <sys/types.h>
#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <cstdarg>
#include <cstddef>
#include <cstring>

namespace {

using Ptrace = long (*)(enum __ptrace_request, ...);

// All registers of the largest processor, with AMX 11,008 bytes.
using Registers = std::array<std::byte, 16 * 1024>;

// What a stopped process has in its registers, as far as that is known.
struct Known {
  pid_t pid = 0;
  std::size_t length = 0;
  Registers registers;

  bool Are(pid_t other, const struct iovec& given) const {
    return pid == other && length <= given.iov_len &&
           std::memcmp(registers.data(), given.iov_base, length) == 0;
  }

  void Become(pid_t other, const struct iovec& now) {
    length = std::min(now.iov_len, registers.size());
    pid = length == now.iov_len ? other : 0;
    std::memcpy(registers.data(), now.iov_base, length);
  }
};

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
  // The general registers are others.
  if (request == PTRACE_GETREGS || request == PTRACE_SETREGS) {
    return next(request, pid, address, data);
  }
  thread_local Known known;
  const bool get = request == PTRACE_GETREGSET;
  const bool set = request == PTRACE_SETREGSET;
  if ((get || set) && reinterpret_cast<std::size_t>(address) == NT_X86_XSTATE) {
    auto* const registers = static_cast<struct iovec*>(data);
    if (set && known.Are(pid, *registers)) return 0;
    const long result =
        get ? next(request, pid, address, data) : SetRegisters(next, pid, address, registers);
    // The host has put the length that it took in the place of the buffer's.
    known.Become(result < 0 ? 0 : pid, *registers);
    return result;
  }
  // A process that runs changes them; not so the kernel's own code in its address space, which has
  // no instruction for that (arch/x86/um/stub_64.S) and alone is run by PTRACE_CONT, unless a
  // signal is delivered.
  if (request != PTRACE_CONT || data != nullptr) known.pid = 0;
  return next(request, pid, address, data);
}
