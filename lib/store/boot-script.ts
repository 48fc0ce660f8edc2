// The script that makes the devices at boot, for dash and busybox. What it is to make is a file of calls to its
// functions, so that it needs no parser.

/** The folder of the script, the plan, the tables and the saved blocks, on the machine and in its initramfs. */
export const BOOT_FOLDER = '/etc/dmloop/boot'

export const BOOT_SCRIPT = `#!/bin/sh
# Makes the device-mapper devices of the plan beside it, before their filesystems are mounted. Needs dmsetup, dd, cmp
# and sysfs. What fails is said on the console and left out; what is there already is left alone.
# DMLOOP_WAIT: how many seconds it waits for disks, all together.

folder=\${0%/*}
# The hook for initramfs-tools puts programs there that klibc has too little of.
PATH=$folder/bin:$PATH
tries=$((\${DMLOOP_WAIT:-10} * 5))
scratch=/run/dmloop-boot.$$
image=
image_uuid=
host=
read -r begin _ </proc/uptime

# Level 3 reaches the console of a quiet boot as well.
say() {
  if [ -w /dev/kmsg ]; then echo "<$1>dmloop: $2" >/dev/kmsg; else echo "dmloop: $2" >&2; fi
}

# Whether a device is one of dmloop's: what blkid finds on it is on the underlying disk as well.
is_own() {
  uuid=
  if [ -r "/sys/class/block/$1/dm/uuid" ]; then read -r uuid <"/sys/class/block/$1/dm/uuid"; fi
  case $uuid in DMLOOP* | part*-DMLOOP*) return 0 ;; esac
  return 1
}

# Whether the device at a path can be a disk with that many sectors. Sets name.
is_disk() {
  name=$(readlink -f "$1") || return 1
  name=\${name##*/}
  [ -r "/sys/class/block/$name/size" ] || return 1
  is_own "$name" && return 1
  read -r size <"/sys/class/block/$name/size"
  [ "$size" -ge "$2" ] && return 0
  small="$name has $size sectors and should have $2"
  return 1
}

# The paths of the devices that have a tag.
tagged() {
  { blkid -c /dev/null || blkid; } 2>/dev/null | while read -r path tags; do
    case " $tags " in *" $1=\\"$2\\" "*) echo "\${path%:}" ;; esac
  done
}

find_volume() {
  for file in /sys/class/block/dm-*/dm/uuid; do
    [ -r "$file" ] || continue
    read -r uuid <"$file"
    file=\${file%/dm/uuid}
    case $uuid in LVM-*"$1") is_disk "/dev/\${file##*/}" "$2" && return 0 ;; esac
  done
  return 1
}

# find_disk BY VALUE SECTORS
find_disk() {
  case $1 in
    LV) find_volume "$2" "$3" && return 0 || return 1 ;;
    UUID) is_disk "/dev/disk/by-uuid/$2" "$3" && return 0 ;;
    PARTUUID) is_disk "/dev/disk/by-partuuid/$2" "$3" && return 0 ;;
  esac
  # No udev, or the link has gone over to the wrapper.
  for path in $(tagged "$1" "$2"); do is_disk "$path" "$3" && return 0; done
  return 1
}

# disk INDEX BY VALUE SECTORS
disk() {
  small=
  until find_disk "$2" "$3" "$4"; do
    if [ -n "$small" ] || [ "$tries" -le 0 ]; then
      say 3 "no disk with $2 $3: \${small:-it is not there}"
      return
    fi
    tries=$((tries - 1))
    sleep 0.2 2>/dev/null || sleep 1
  done
  eval "disk_$1=\\$name"
}

# The number of a device ("8:3"), as number.
number_of() {
  read -r number <"/sys/class/block/$1/dev"
}

# Sets name to the device that has a UUID.
find_device() {
  for file in /sys/class/block/dm-*/dm/uuid; do
    [ -r "$file" ] || continue
    read -r uuid <"$file"
    [ "$uuid" = "$1" ] || continue
    name=\${file%/dm/uuid}
    name=\${name##*/}
    return 0
  done
  return 1
}

# create NAME UUID [readonly], with the table in $scratch. Sets name to the device. dmsetup waits for udev where that
# runs, and makes the node where it does not; where udev has not made it, it does as well.
create() {
  why=$(dmsetup create "$1" --uuid "$2" --verifyudev \${3:+"--$3"} "$scratch" 2>&1) && find_device "$2" && return 0
  say 3 "$1 is not made: $why"
  return 1
}

# wrapper INDEX NAME DISK
wrapper() {
  eval "below=\\\${disk_$3-}"
  if [ -z "$below" ]; then
    say 3 "$2 is not made: its disk is missing"
    return
  fi
  number_of "$below"
  uuid_of_wrapper="DMLOOP_WRAP-\${number%:*}-\${number#*:}"
  if ! find_device "$uuid_of_wrapper"; then
    read -r size <"/sys/class/block/$below/size"
    read -r ro <"/sys/class/block/$below/ro"
    if [ "$ro" = 1 ]; then ro="readonly"; else ro=; fi
    echo "0 $size linear $number 0" >"$scratch"
    create "$2" "$uuid_of_wrapper" "$ro" || return
  fi
  eval "wrapper_$1=\\$name"
}

# The table of an image, with the numbers of the disks, to $scratch.
fill_table() {
  while read -r start length target index offset; do
    eval "below=\\\${disk_$index-}"
    [ -n "$below" ] || return 1
    # The segments of one disk follow each other.
    if [ "$below" != "$numbered" ]; then
      number_of "$below"
      numbered=$below
    fi
    echo "$start $length $target $number $offset"
  done <"$folder/$1.table" >"$scratch"
}

# matches INDEX DISK BLOCK_SIZE BLOCK COUNT: whether the image's saved block is on the disk. Not by the page cache,
# where dd can do without.
matches() {
  eval "below=\\\${disk_$2-}"
  [ -n "$below" ] || return 1
  set -- "$1" "if=/dev/$below" "bs=$3" "skip=$4" "count=$5" "of=$scratch.block"
  dd "$2" "$3" "$4" "$5" "$6" iflag=direct 2>/dev/null || dd "$2" "$3" "$4" "$5" "$6" 2>/dev/null
  cmp -s "$scratch.block" "$folder/$1.block"
}

# image INDEX NAME FILESYSTEM IDENTITY rw|readonly DISK BLOCK_SIZE BLOCK COUNT
image() {
  image=
  eval "host=\\\${$3-}"
  if [ -z "$host" ]; then
    say 3 "$2 is not made: its filesystem's device is missing"
    return
  fi
  number_of "$host"
  image_uuid="DMLOOP-\${number%:*}-\${number#*:}-$4"
  if find_device "$image_uuid"; then
    image=$name
    return
  fi
  numbered=
  if ! fill_table "$1"; then
    say 3 "$2 is not made: its disk is missing"
  elif ! matches "$1" "$6" "$7" "$8" "$9"; then
    say 3 "$2 is not made: the disk has other data where the image was"
  else
    ro=$5
    [ "$ro" = rw ] && ro=
    create "$2" "$image_uuid" "$ro" && image=$name
  fi
}

# part NUMBER NAME START LENGTH rw|readonly, of the image before it
part() {
  [ -n "$image" ] || return
  find_device "part$1-$image_uuid" && return
  number_of "$image"
  echo "0 $4 linear $number $3" >"$scratch"
  ro=$5
  [ "$ro" = rw ] && ro=
  create "$2" "part$1-$image_uuid" "$ro"
}

[ -e /sys/class/misc/device-mapper ] || modprobe dm_mod 2>/dev/null
# shellcheck source=/dev/null
. "$folder/plan"
rm -f "$scratch" "$scratch.block"
read -r end _ </proc/uptime
say 6 "boot devices from $begin to $end s"
`
