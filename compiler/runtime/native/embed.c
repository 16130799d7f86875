/* For exported libraries and programs: the artifact inside of them, and a loader for its kernel libraries.
 *
 * Kernel libraries are pure code that needs a few functions of libc and libm, so loading one is copying its segments,
 * resolving those names and adding the base address; no dynamic loader, file or libdl is needed. */
#include <elf.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define TILEWRIGHT_EMBEDDED
#define TW_API __attribute__((visibility("default")))
#define TILEWRIGHT_IMPLEMENTATION
#include "tilewright.h"

#if defined(__x86_64__)
enum { MACHINE = EM_X86_64, ABSOLUTE = R_X86_64_64, GLOBAL = R_X86_64_GLOB_DAT, JUMP = R_X86_64_JUMP_SLOT, RELATIVE = R_X86_64_RELATIVE };
#elif defined(__aarch64__)
enum { MACHINE = EM_AARCH64, ABSOLUTE = R_AARCH64_ABS64, GLOBAL = R_AARCH64_GLOB_DAT, JUMP = R_AARCH64_JUMP_SLOT, RELATIVE = R_AARCH64_RELATIVE };
#endif

#define PAGE ((uint64_t)65536) /* the largest page size of the supported systems */

typedef struct {
    unsigned char *base;
    uint64_t span;
    const Elf64_Sym *symbols;
    const char *strings;
    uint32_t count;
} Library;

typedef void (*Function)(void);

#define BOTH(name) {#name, (Function)(name)}, {#name "f", (Function)(name##f)}
static const struct {
    const char *name;
    Function address;
} provided[] = {
    {"memcpy", (Function)memcpy}, {"memmove", (Function)memmove}, {"memset", (Function)memset}, {"memcmp", (Function)memcmp},
    BOTH(acos),  BOTH(acosh), BOTH(asin), BOTH(asinh), BOTH(atan), BOTH(atanh), BOTH(cos),  BOTH(cosh), BOTH(erf), BOTH(exp),
    BOTH(exp2),  BOTH(fmod),  BOTH(log),  BOTH(log2),  BOTH(pow),  BOTH(sin),   BOTH(sinh), BOTH(tan),  BOTH(tanh),
};

/* The address of a symbol: the library's own, one of libc, or 0 for a weak one that nobody has. */
static int resolve(const Library *l, uint32_t index, uint64_t *address) {
    if (index >= l->count) return 0;
    const Elf64_Sym *symbol = &l->symbols[index];
    *address = (uint64_t)(uintptr_t)l->base + symbol->st_value;
    if (symbol->st_shndx != SHN_UNDEF) return 1;
    for (size_t i = 0; i < sizeof provided / sizeof *provided; i++)
        if (strcmp(provided[i].name, l->strings + symbol->st_name) == 0) {
            *address = (uint64_t)(uintptr_t)provided[i].address;
            return 1;
        }
    *address = 0;
    return ELF64_ST_BIND(symbol->st_info) == STB_WEAK;
}

static int relocate(const Library *l, const Elf64_Rela *table, uint64_t bytes, char *why, size_t capacity) {
    for (uint64_t i = 0; i < bytes / sizeof *table; i++) {
        uint32_t type = (uint32_t)ELF64_R_TYPE(table[i].r_info), index = (uint32_t)ELF64_R_SYM(table[i].r_info);
        uint64_t value = (uint64_t)(uintptr_t)l->base;
        if (table[i].r_offset > l->span - 8 || (type != RELATIVE && type != ABSOLUTE && type != GLOBAL && type != JUMP)) {
            snprintf(why, capacity, "a relocation of type %u is not supported", type);
            return 0;
        }
        if (type != RELATIVE && !resolve(l, index, &value)) {
            snprintf(why, capacity, "it needs %s", index < l->count ? l->strings + l->symbols[index].st_name : "a symbol");
            return 0;
        }
        value += (uint64_t)table[i].r_addend;
        memcpy(l->base + table[i].r_offset, &value, sizeof value);
    }
    return 1;
}

static int link_dynamic(Library *l, uint64_t at, char *why, size_t capacity) {
    const Elf64_Rela *rela = NULL, *jumps = NULL;
    uint64_t rela_bytes = 0, jump_bytes = 0;
    for (const Elf64_Dyn *d = (const Elf64_Dyn *)(const void *)(l->base + at); d->d_tag != DT_NULL; d++) {
        unsigned char *place = l->base + d->d_un.d_ptr;
        switch (d->d_tag) {
        case DT_SYMTAB: l->symbols = (const Elf64_Sym *)(const void *)place; break;
        case DT_STRTAB: l->strings = (const char *)place; break;
        case DT_HASH: l->count = ((const uint32_t *)(const void *)place)[1]; break;
        case DT_RELA: rela = (const Elf64_Rela *)(const void *)place; break;
        case DT_RELASZ: rela_bytes = d->d_un.d_val; break;
        case DT_JMPREL: jumps = (const Elf64_Rela *)(const void *)place; break;
        case DT_PLTRELSZ: jump_bytes = d->d_un.d_val; break;
        case DT_INIT: case DT_INIT_ARRAY: case DT_TEXTREL: case DT_RELR:
            snprintf(why, capacity, "it has initializers or text relocations");
            return 0;
        default: break;
        }
    }
    if (l->symbols == NULL || l->strings == NULL || l->count == 0) {
        snprintf(why, capacity, "it has no table of symbols");
        return 0;
    }
    return relocate(l, rela, rela_bytes, why, capacity) && relocate(l, jumps, jump_bytes, why, capacity);
}

static int protect(const Library *l, const Elf64_Phdr *headers, uint32_t count) {
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    for (uint32_t i = 0; i < count; i++) {
        const Elf64_Phdr *h = &headers[i];
        if (h->p_type != PT_LOAD) continue;
        uint64_t start = h->p_vaddr / page * page, end = h->p_vaddr + h->p_memsz;
        int mode = (h->p_flags & PF_R ? PROT_READ : 0) | (h->p_flags & PF_W ? PROT_WRITE : 0) | (h->p_flags & PF_X ? PROT_EXEC : 0);
        if (mprotect(l->base + start, (size_t)(end - start), mode) != 0) return 0;
    }
    __builtin___clear_cache((char *)l->base, (char *)l->base + l->span);
    return 1;
}

void tw_embedded_unload(void *library) {
    Library *l = library;
    munmap(l->base, (size_t)l->span);
    free(l);
}

void *tw_embedded_load(const void *code, uint64_t bytes, char *why, size_t capacity) {
    const Elf64_Ehdr *header = code;
    const Elf64_Phdr *headers = (const Elf64_Phdr *)(const void *)((const char *)code + sizeof *header);
    uint64_t span = 0, dynamic = 0;
    if (bytes < sizeof *header || memcmp(header->e_ident, ELFMAG, SELFMAG) != 0 || header->e_machine != MACHINE ||
        header->e_phoff != sizeof *header || header->e_phnum > 64 || bytes < sizeof *header + header->e_phnum * sizeof *headers) {
        snprintf(why, capacity, "not a library of this processor");
        return NULL;
    }
    for (int i = 0; i < header->e_phnum; i++) {
        if (headers[i].p_type == PT_LOAD && headers[i].p_vaddr + headers[i].p_memsz > span) span = headers[i].p_vaddr + headers[i].p_memsz;
        if (headers[i].p_type == PT_DYNAMIC) dynamic = headers[i].p_vaddr;
    }
    Library *l = calloc(1, sizeof *l);
    if (l == NULL) return NULL;
    l->span = (span + PAGE - 1) / PAGE * PAGE;
    l->base = mmap(NULL, (size_t)l->span, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (l->base == MAP_FAILED) {
        snprintf(why, capacity, "no memory for it");
        free(l);
        return NULL;
    }
    for (int i = 0; i < header->e_phnum; i++)
        if (headers[i].p_type == PT_LOAD) memcpy(l->base + headers[i].p_vaddr, (const char *)code + headers[i].p_offset, (size_t)headers[i].p_filesz);
    snprintf(why, capacity, "this system does not let memory become code");
    if (link_dynamic(l, dynamic, why, capacity) && protect(l, headers, header->e_phnum)) return l;
    tw_embedded_unload(l);
    return NULL;
}

void *tw_embedded_symbol(void *library, const char *name) {
    const Library *l = library;
    for (uint32_t i = 1; i < l->count; i++)
        if (l->symbols[i].st_shndx != SHN_UNDEF && strcmp(l->strings + l->symbols[i].st_name, name) == 0)
            return l->base + l->symbols[i].st_value;
    return NULL;
}

/* Where the artifact is: its distance from this marker and its size, written by `export` once both are known. */
const volatile struct {
    char magic[24];
    int64_t distance;
    uint64_t bytes;
} tw_embedded_place = {"TILEWRIGHT-PLACE-MARKER", 0, 0};

int32_t tw_open_embedded(tw_model **model, const tw_options *options, tw_error *error) {
    return tw_open_memory(model, (const char *)(uintptr_t)&tw_embedded_place + tw_embedded_place.distance, tw_embedded_place.bytes,
                          options, error);
}
