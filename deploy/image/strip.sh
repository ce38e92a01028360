#!/bin/sh
# Takes from the base what no running image needs: package managers, interpreters beside Python, setuid bits.
# The dpkg database stays, so that scanners know what is in the image.
set -eu
umask 022

# Accounts by number; see docs/hospital-it/containers.md.
echo 'stillroom:x:10000:' >>/etc/group
echo 'courier:x:10001:10000:stillroom courier:/tmp:/usr/sbin/nologin' >>/etc/passwd
echo 'runner:x:10002:10000:stillroom runner:/tmp:/usr/sbin/nologin' >>/etc/passwd
echo 'server:x:10003:10003:stillroom server:/tmp:/usr/sbin/nologin' >>/etc/passwd
echo 'server:x:10003:' >>/etc/group

# Pip and what would bring it back, in Debian's places and in python.org's.
for python in /usr /usr/local; do
  rm -rf "$python"/lib/python3*/ensurepip "$python"/lib/python3*/site-packages/* \
    "$python"/lib/python3/dist-packages/pip* "$python"/lib/python3/dist-packages/setuptools* \
    "$python"/bin/pip* "$python"/bin/easy_install* "$python"/bin/uv*
done
rm -rf /usr/share/python-wheels

# Mount points. A new volume takes owner and mode from here.
install -d -m 2750 -o 10001 -g 10000 /stillroom
install -d -m 2770 -o 10001 -g 10000 /stillroom/exchange
install -d -m 0700 -o 10001 -g 10000 /stillroom/courier
# By the group, because a hospital may give the runner another number; its volume is mounted in no other container.
install -d -m 2770 -o 10002 -g 10000 /stillroom/state
install -d -m 2750 -o 10001 -g 10000 /stillroom/study
install -d -m 0700 -o 10002 -g 10000 /stillroom/pull
install -d -m 0755 /data /data/cardiac-ct
install -d -m 2750 -o 10002 -g 10000 /data/pulled
install -d -m 0700 -o 10003 -g 10003 /consortium

find / -xdev -type f -perm /6000 -exec chmod a-s {} +
rm -rf /usr/share/doc /usr/share/man /usr/share/info /usr/share/locale /usr/share/perl* /usr/share/bash-completion
rm -rf /usr/bin/perl* /usr/lib/*/perl* /usr/bin/apt* /usr/lib/apt /usr/lib/*/libapt* /etc/apt /var/lib/apt \
  /var/cache/* /var/log/* /usr/sbin/dpkg* /usr/lib/dpkg /usr/share/dpkg /var/lib/dpkg/info /usr/share/debconf \
  /usr/sbin/debconf* /usr/bin/debconf* /usr/sbin/update-* /usr/bin/update-alternatives
rm -rf /usr/bin/dpkg*
