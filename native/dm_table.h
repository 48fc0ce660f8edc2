#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "device_mapper.h"

// Packed segments to and from the records that DM_TABLE_LOAD takes and DM_TABLE_STATUS gives:
// a dm_target_spec, then its parameters as NUL-terminated text, padded to eight bytes.
namespace dmloop::dm {

// Bytes that the records take at most, and at least.
size_t TableRoom(const SegmentSource& segments, const std::vector<std::string>& devices);
size_t LeastTableSize(const SegmentSource& segments);

struct WrittenTable {
  uint32_t targets = 0;
  size_t bytes = 0;
};

// Fills `out`, of at least TableRoom bytes.
WrittenTable WriteTable(const SegmentSource& segments, const std::vector<std::string>& devices,
                        std::span<std::byte> out);
// Told now and then how many bytes have been read, which are not looked at again.
using ReadSoFar = std::function<void(size_t)>;

// EBADMSG when the records do not add up.
Result<Table> ReadTable(std::span<const std::byte> in, uint32_t target_count,
                        const ReadSoFar& read_so_far = {});

}  // namespace dmloop::dm
