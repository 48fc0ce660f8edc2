{
  'variables': {
    # Set by native/build.mjs. Warnings are errors in a checkout, not on a user's machine.
    'strict%': 0,
    'sanitize%': 'none',
    # Set by native/prebuilds.mjs: for other machines, older ones among them.
    'prebuilt%': 0,
  },
  'target_defaults': {
    'cflags': ['-Wall', '-Wextra', '-Wpedantic', '-fstack-protector-strong', '-fstack-clash-protection'],
    'cflags_cc': ['-std=c++20', '-fvisibility=hidden'],
    'cflags_cc!': ['-std=gnu++17', '-std=gnu++20'],
    'ldflags': ['-Wl,-z,relro', '-Wl,-z,now', '-Wl,-z,noexecstack'],
    'conditions': [
      ['strict==1', {'cflags': ['-Werror']}],
      ['sanitize=="none"', {'defines': ['_FORTIFY_SOURCE=2']}, {
        'defines': ['_GLIBCXX_ASSERTIONS'],
        'cflags': ['-fsanitize=<(sanitize)', '-fno-sanitize-recover=all', '-fno-omit-frame-pointer', '-g'],
        'ldflags': ['-fsanitize=<(sanitize)'],
      }],
    ],
  },
  'targets': [
    {
      'target_name': 'dmloop',
      'sources': [
        'native/addon.cc',
        'native/btrfs.cc',
        'native/call_threads.cc',
        'native/compare.cc',
        'native/device_facts.cc',
        'native/device_mapper.cc',
        'native/direct_io.cc',
        'native/dm_ioctl.cc',
        'native/dm_table.cc',
        'native/environment.cc',
        'native/extent_list.cc',
        'native/extent_walk.cc',
        'native/file_facts.cc',
        'native/file_handle.cc',
        'native/files.cc',
        'native/filesystem_files.cc',
        'native/filesystem_uuid.cc',
        'native/guard.cc',
        'native/image_file.cc',
        'native/journal.cc',
        'native/js_calls.cc',
        'native/js_device_mapper.cc',
        'native/js_devices.cc',
        'native/js_extents.cc',
        'native/js_files.cc',
        'native/js_image.cc',
        'native/js_loop.cc',
        'native/js_segments.cc',
        'native/js_udev.cc',
        'native/local_socket.cc',
        'native/probe.cc',
        'native/loop.cc',
        'native/mounts.cc',
        'native/page_cache.cc',
        'native/places.cc',
        'native/record.cc',
        'native/segments.cc',
        'native/small_files.cc',
        'native/swap_file.cc',
        'native/udev_cookie.cc',
      ],
      'dependencies': ["<!(node -p \"require('node-addon-api').targets\"):node_addon_api"],
      # A worker thread may be ended while a call is under way: then there is nobody left to throw to.
      'defines': ['NAPI_VERSION=8', 'NODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS'],
      # The last worker thread that ends unloads it, while calls that are stuck have yet to return to it.
      'ldflags': ['-Wl,-z,nodelete'],
      'conditions': [
        ['prebuilt==1', {'sources': ['native/older_systems.cc']}],
      ],
    },
  ],
  'conditions': [
    # A checkout builds what the tests need too.
    ['strict==1', {
      'targets': [
        {
          'target_name': 'fragment',
          'type': 'executable',
          'sources': ['test/tools/fragment.cc'],
        },
        {
          'target_name': 'uml-xstate',
          'type': 'shared_library',
          'product_prefix': '',
          'product_dir': '<(PRODUCT_DIR)',
          'sources': ['vm/xstate.cc'],
          'cflags': ['-fPIC'],
          'libraries': ['-ldl'],
        },
        {
          'target_name': 'floor',
          'type': 'executable',
          'sources': ['bench/native/floor.cc'],
        },
        {
          'target_name': 'hold-pages',
          'type': 'executable',
          'sources': ['test/tools/hold-pages.cc'],
        },
        {
          'target_name': 'kill-at',
          'type': 'executable',
          'sources': ['test/tools/kill-at.cc'],
        },
        {
          'target_name': 'native-check',
          'type': 'executable',
          'sources': ['test/tools/native-check.cc', 'native/btrfs.cc', 'native/dm_table.cc', 'native/extent_list.cc', 'native/extent_walk.cc', 'native/files.cc', 'native/segments.cc', 'native/small_files.cc'],
        },
      ],
    }],
  ],
}
