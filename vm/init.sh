#!/bin/sh
# The first process of the guest kernel (vm/kernel.ts boots it). The host's root directory is already
# mounted read-only as /; this makes the rest of a machine, runs the command and stops the kernel.
# From the kernel's command line: DMLOOP_VM_DIR, a host directory with the command in it, where its
# exit status goes; DMLOOP_VM_LAYER, a directory with unpacked packages to lay over /;
# DMLOOP_VM_KERNEL, the directory of this kernel's modules; DMLOOP_VM_OUT and DMLOOP_VM_ERR, the
# terminals for what the command prints; and the options DMLOOP_VM_DISK (KiB), DMLOOP_VM_UDEV,
# DMLOOP_VM_MODULES.
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH
exec </dev/null

# Not every Debian has halt(8).
stop() {
  echo o >/proc/sysrq-trigger
  sleep 60
}

# Mounts the host directory $1 on $2. User-Mode Linux reaches it itself, qemu has it under its last name.
mount_host() {
  if grep -qw hostfs /proc/filesystems; then
    mount -t hostfs -o "$1" none "$2"
  else
    mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000 "$(basename "$1")" "$2"
  fi
}

if [ -n "$DMLOOP_VM_LAYER" ] && [ -z "$DMLOOP_VM_LAYERED" ]; then
  # Without root on the host nothing could be installed there: the packages are laid over the host's files
  # in a layer of their own, and changes to either go to memory.
  mount -t proc proc /proc
  mount -t tmpfs tmpfs /tmp
  mkdir -p /tmp/upper /tmp/work /tmp/root /tmp/layer /tmp/modules/lib
  ln -s "$DMLOOP_VM_KERNEL" /tmp/modules/lib/modules
  # The package's modprobe is a link to an absolute path, which is not there yet. What the host has
  # is not in the layer.
  kmod=$DMLOOP_VM_LAYER/bin/kmod
  [ -x "$kmod" ] || kmod=/bin/kmod
  ln -s "$kmod" /tmp/modprobe
  # A mount of its own, because overlayfs takes no layer that lies within another.
  mount_host "$DMLOOP_VM_LAYER" /tmp/layer
  LD_LIBRARY_PATH="$DMLOOP_VM_LAYER/usr/lib/$(uname -m)-linux-gnu" \
    /tmp/modprobe -d /tmp/modules overlay &&
    mount -t overlay overlay /tmp/root \
      -o "lowerdir=/tmp/layer:/,upperdir=/tmp/upper,workdir=/tmp/work" || stop
  mount -t devtmpfs dev /tmp/root/dev
  export DMLOOP_VM_LAYERED=1
  exec chroot /tmp/root "$0"
fi

mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t tmpfs tmpfs /run
mkdir -p /dev/pts /dev/shm && mount -t devpts devpts /dev/pts && mount -t tmpfs tmpfs /dev/shm
ln -sf /proc/self/fd /dev/fd

mkdir -p /run/vm /run/modules/lib /run/here
mount_host "$DMLOOP_VM_DIR" /run/vm || stop
# The project may itself be under what the guest has of its own.
here=$(cat /run/vm/here)
mount --bind "$here" /run/here
mount -t tmpfs tmpfs /tmp
if ! [ -e "$here" ]; then
  mkdir -p "$here" && mount --bind /run/here "$here"
fi
ln -s "$DMLOOP_VM_KERNEL" /run/modules/lib/modules
modprobe -d /run/modules -a dm-mod dm-zero loop
modprobe -d /run/modules brd rd_nr=2 rd_size="$DMLOOP_VM_DISK"
for module in $(echo "$DMLOOP_VM_MODULES" | tr ',' ' '); do
  modprobe -d /run/modules "$module"
done
# Where `modprobe` in a test finds the modules of this kernel, and where the kernel itself does.
export MODPROBE_OPTIONS="-d /run/modules"
printf '#!/bin/sh\nexec modprobe -d /run/modules "$@"\n' >/run/modprobe
chmod +x /run/modprobe
echo /run/modprobe >/proc/sys/kernel/modprobe

if [ -n "$DMLOOP_VM_UDEV" ]; then
  for udevd in /usr/lib/systemd/systemd-udevd /lib/systemd/systemd-udevd; do
    if [ -x "$udevd" ]; then
      "$udevd" --daemon
      break
    fi
  done
  udevadm trigger --action=add --subsystem-match=block
  udevadm settle
else
  # Otherwise libdm leaves the nodes of its own devices to a udevd that is not there.
  export DM_DISABLE_UDEV=1
fi

{
  # While they are open, because some terminals forget their settings when they are closed.
  stty raw -echo <&1
  stty raw -echo <&2
  sh /run/vm/command
} >"/dev/$DMLOOP_VM_OUT" 2>"/dev/$DMLOOP_VM_ERR"
echo $? >/run/vm/status
stop
