#!/bin/sh
# Gathers what the image holds and nothing else: `image.sh PROGRAMS FOLDER`. The Dockerfile runs it in its build stage;
# `cargo xtask dockerfile` runs it without an engine and looks at what came out.
set -eu
programs=$1
image=$2

mkdir -p "$image/usr/lib/linkerd" "$image/usr/sbin" "$image/bin" "$image/etc" "$image/tmp"
chmod 1777 "$image/tmp"

for program in linkerd-proxy linkerd-controller linkerd linkerd2-proxy-init linkerd2-network-validator linkerd-await; do
    cp "$programs/$program" "$image/usr/lib/linkerd/"
done

# The init container's: both machines of the kernel, for both families, by the names that linkerd2-proxy-init calls.
for machine in nft legacy; do
    cp "/usr/sbin/xtables-$machine-multi" "$image/usr/sbin/"
    for family in iptables ip6tables; do
        for what in '' -save -restore; do
            ln -s "xtables-$machine-multi" "$image/usr/sbin/$family-$machine$what"
        done
    done
done
for family in iptables ip6tables; do
    for what in '' -save -restore; do
        ln -s xtables-nft-multi "$image/usr/sbin/$family$what"
    done
done
for folder in /usr/lib/*/xtables; do
    mkdir -p "$image$folder"
    cp -P "$folder"/libxt_* "$folder"/libipt_* "$folder"/libip6t_* "$image$folder/"
done

# The pause of config.alpha.linkerd.io/proxy-wait-before-exit-seconds.
cp -L /bin/sleep "$image/bin/sleep"

# Libraries of all of them, and the loader.
for file in "$image"/usr/lib/linkerd/* "$image"/usr/sbin/*-multi "$image"/bin/sleep "$image"/usr/lib/*/xtables/*.so; do
    ldd "$file"
done | grep -o '/[^ ]*' | grep '^/lib\|^/usr/lib' | grep '\.so' | sort -u | while read -r library; do
    mkdir -p "$image$(dirname "$library")"
    cp -L "$library" "$image$library"
done

# Whom to trust outside the mesh, where the machine that builds has a list.
certificates=/etc/ssl/certs/ca-certificates.crt
if [ -f "$certificates" ]; then
    mkdir -p "$image/etc/ssl/certs"
    cp -L "$certificates" "$image$certificates"
fi

# Names of users are for who looks at processes; nothing logs in.
printf 'root:x:0:0::/:/none\nlinkerd:x:2102:2102::/:/none\nnobody:x:65534:65534::/:/none\n' >"$image/etc/passwd"
printf 'root:x:0:\nlinkerd:x:2102:\nnogroup:x:65534:\n' >"$image/etc/group"
printf 'hosts: files dns\n' >"$image/etc/nsswitch.conf"

# The init container is no root either: it has NET_ADMIN and NET_RAW in its bounding set, and gets them by these files.
# Elsewhere the bounding set has neither, and they do not start.
for file in usr/lib/linkerd/linkerd2-proxy-init usr/sbin/xtables-nft-multi usr/sbin/xtables-legacy-multi; do
    ${SETCAP:-setcap} cap_net_admin,cap_net_raw+eip "$image/$file"
done
