/* The name of a pod's host link, by the rule of names.py: the agent must come to the same. */
#define _GNU_SOURCE
#include "name.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint32_t rotated(uint32_t value, int bits) {
    return value << bits | value >> (32 - bits);
}

static void sha1_block(uint32_t state[5], const unsigned char *block) {
    uint32_t w[80], a = state[0], b = state[1], c = state[2], d = state[3], e = state[4];
    for (int i = 0; i < 80; i++) {
        const unsigned char *at = block + 4 * i;
        w[i] = i < 16 ? (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3]
                      : rotated(w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16], 1);
    }
    for (int i = 0; i < 80; i++) {
        uint32_t f, k;
        if (i < 20) f = (b & c) | (~b & d), k = 0x5A827999;
        else if (i < 40) f = b ^ c ^ d, k = 0x6ED9EBA1;
        else if (i < 60) f = (b & c) | (b & d) | (c & d), k = 0x8F1BBCDC;
        else f = b ^ c ^ d, k = 0xCA62C1D6;
        uint32_t next = rotated(a, 5) + f + e + k + w[i];
        e = d, d = c, c = rotated(b, 30), b = a, a = next;
    }
    state[0] += a, state[1] += b, state[2] += c, state[3] += d, state[4] += e;
}

/* FIPS 180-4; the first 11 hexadecimal digits, as names.py has them. */
static void name_of(const char *text, size_t size, char name[LINK_NAME]) {
    uint32_t state[5] = {0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476, 0xC3D2E1F0};
    unsigned char last[128] = {0};
    uint64_t bits = (uint64_t)size * 8;
    for (; size >= 64; text += 64, size -= 64) sha1_block(state, (const unsigned char *)text);
    memcpy(last, text, size);
    last[size] = 0x80;
    size_t blocks = size < 56 ? 1 : 2;
    for (int i = 0; i < 8; i++) last[64 * blocks - 1 - (size_t)i] = (unsigned char)(bits >> 8 * i);
    for (size_t i = 0; i < blocks; i++) sha1_block(state, last + 64 * i);
    snprintf(name, LINK_NAME, "eni%08x%03x", (unsigned)state[0], (unsigned)(state[1] >> 20));
}

/* The value of a key of CNI_ARGS, "K=V;K=V"; the last one counts. */
static size_t argument(const char *key, const char **value) {
    const char *at = getenv("CNI_ARGS");
    size_t found = 0, wanted = strlen(key);
    while (at && *at) {
        size_t length = strcspn(at, ";");
        if (length > wanted && !strncmp(at, key, wanted) && at[wanted] == '=') {
            *value = at + wanted + 1;
            found = length - wanted - 1;
        }
        at += length + (at[length] == ';');
    }
    return found;
}

int link_name(char name[LINK_NAME]) {
    const char *container = getenv("CNI_CONTAINERID"), *ifname = getenv("CNI_IFNAME"), *namespace, *pod;
    char text[1024];
    int size = -1;
    if (!container || !*container || !ifname || strcmp(ifname, IFNAME)) return 0;
    size_t first = argument("K8S_POD_NAMESPACE", &namespace), second = argument("K8S_POD_NAME", &pod);
    if (first && second && first + second < sizeof text - 2)
        size = snprintf(text, sizeof text, "%.*s.%.*s", (int)first, namespace, (int)second, pod);
    else if (!first || !second)
        size = snprintf(text, sizeof text, "%s/" IFNAME, container);
    if (size <= 0 || (size_t)size >= sizeof text) return 0;
    name_of(text, (size_t)size, name);
    return 1;
}
