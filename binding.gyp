{
  'variables': {
    # Set by native/build.mjs: warnings are errors in a checkout, not on a user's machine.
    'strict%': 0,
    'sanitize%': 0,
  },
  'targets': [
    {
      'target_name': 'dmloop',
      'sources': [
        'native/addon.cc',
        'native/device_mapper.cc',
        'native/dm_ioctl.cc',
        'native/dm_table.cc',
        'native/extent_walk.cc',
        'native/file_facts.cc',
        'native/files.cc',
        'native/segments.cc',
        'native/udev_cookie.cc',
      ],
      'dependencies': ["<!(node -p \"require('node-addon-api').targets\"):node_addon_api"],
      'defines': ['NAPI_VERSION=8'],
      'cflags': ['-Wall', '-Wextra', '-Wpedantic', '-fstack-protector-strong', '-fstack-clash-protection'],
      'cflags_cc': ['-std=c++20', '-fvisibility=hidden'],
      'cflags_cc!': ['-std=gnu++17', '-std=gnu++20'],
      'ldflags': ['-Wl,-z,relro', '-Wl,-z,now', '-Wl,-z,noexecstack'],
      'conditions': [
        ['strict==1', {'cflags': ['-Werror']}],
        ['sanitize==1', {
          'cflags': ['-fsanitize=address,undefined', '-fno-sanitize-recover=undefined', '-fno-omit-frame-pointer', '-g'],
          'ldflags': ['-fsanitize=address,undefined'],
        }, {
          'defines': ['_FORTIFY_SOURCE=2'],
        }],
      ],
    },
  ],
  'conditions': [
    # A checkout builds the tests' helpers too.
    ['strict==1', {
      'targets': [
        {
          'target_name': 'fragment',
          'type': 'executable',
          'sources': ['test/tools/fragment.cc'],
          'cflags': ['-Wall', '-Wextra', '-Wpedantic', '-Werror'],
          'cflags_cc': ['-std=c++20'],
          'cflags_cc!': ['-std=gnu++17', '-std=gnu++20', '-fno-exceptions'],
        },
      ],
    }],
  ],
}
