/* Imports a heap's buffers into EGL, renders from one and to another, exports a texture. */
#define EGL_EGLEXT_PROTOTYPES
#define GL_GLEXT_PROTOTYPES
#include <EGL/egl.h>
#include <EGL/eglext.h>
#include <GLES2/gl2.h>
#include <GLES2/gl2ext.h>

#include "kit.h"

#define SIDE 64
#define WORDS (SIDE * SIDE)
#define XRGB8888 0x34325258 /* fourcc 'XR24' */
#define ARGB8888 0x34325241 /* fourcc 'AR24' */

static EGLDisplay display;

static EGLImageKHR import(int fd)
{
	const EGLint attributes[] = {
		EGL_WIDTH, SIDE, EGL_HEIGHT, SIDE, EGL_LINUX_DRM_FOURCC_EXT, ARGB8888,
		EGL_DMA_BUF_PLANE0_FD_EXT, fd, EGL_DMA_BUF_PLANE0_OFFSET_EXT, 0,
		EGL_DMA_BUF_PLANE0_PITCH_EXT, SIDE * 4, EGL_NONE,
	};
	PFNEGLCREATEIMAGEKHRPROC create =
		(PFNEGLCREATEIMAGEKHRPROC)eglGetProcAddress("eglCreateImageKHR");
	EGLImageKHR image =
		create(display, EGL_NO_CONTEXT, EGL_LINUX_DMA_BUF_EXT, NULL, attributes);

	if (image == EGL_NO_IMAGE_KHR)
		DIE("the buffer can't be imported: EGL error %#x", eglGetError());
	return image;
}

static GLuint texture_of(EGLImageKHR image)
{
	PFNGLEGLIMAGETARGETTEXTURE2DOESPROC target =
		(PFNGLEGLIMAGETARGETTEXTURE2DOESPROC)eglGetProcAddress("glEGLImageTargetTexture2DOES");
	GLuint texture;

	glGenTextures(1, &texture);
	glBindTexture(GL_TEXTURE_2D, texture);
	glTexParameteri(GL_TEXTURE_2D, GL_TEXTURE_MIN_FILTER, GL_NEAREST);
	glTexParameteri(GL_TEXTURE_2D, GL_TEXTURE_MAG_FILTER, GL_NEAREST);
	target(GL_TEXTURE_2D, image);
	NEED(glGetError() == GL_NO_ERROR);
	return texture;
}

static GLuint shader(GLenum kind, const char *text)
{
	GLuint made = glCreateShader(kind);
	GLint good;

	glShaderSource(made, 1, &text, NULL);
	glCompileShader(made);
	glGetShaderiv(made, GL_COMPILE_STATUS, &good);
	NEED(good);
	return made;
}

static void draw_all_of(GLuint texture)
{
	static const float corners[] = { -1, -1, 1, -1, -1, 1, 1, 1 };
	GLuint program = glCreateProgram();

	glAttachShader(program, shader(GL_VERTEX_SHADER,
		"attribute vec2 at; varying vec2 where;"
		"void main() { where = at * 0.5 + 0.5; gl_Position = vec4(at, 0.0, 1.0); }"));
	glAttachShader(program, shader(GL_FRAGMENT_SHADER,
		"precision highp float; varying vec2 where; uniform sampler2D from;"
		"void main() { gl_FragColor = texture2D(from, where); }"));
	glBindAttribLocation(program, 0, "at");
	glLinkProgram(program);
	glUseProgram(program);
	glActiveTexture(GL_TEXTURE0);
	glBindTexture(GL_TEXTURE_2D, texture);
	glVertexAttribPointer(0, 2, GL_FLOAT, GL_FALSE, 0, corners);
	glEnableVertexAttribArray(0);
	glViewport(0, 0, SIDE, SIDE);
	glDrawArrays(GL_TRIANGLE_STRIP, 0, 4);
	glFinish();
	NEED(glGetError() == GL_NO_ERROR);
}

static void export_of(GLuint texture)
{
	PFNEGLCREATEIMAGEKHRPROC create =
		(PFNEGLCREATEIMAGEKHRPROC)eglGetProcAddress("eglCreateImageKHR");
	PFNEGLEXPORTDMABUFIMAGEMESAPROC export =
		(PFNEGLEXPORTDMABUFIMAGEMESAPROC)eglGetProcAddress("eglExportDMABUFImageMESA");
	EGLImageKHR image = create(display, eglGetCurrentContext(), EGL_GL_TEXTURE_2D_KHR,
				   (EGLClientBuffer)(uintptr_t)texture, NULL);
	EGLint stride, offset;
	int fd = -1;

	NEED(image != EGL_NO_IMAGE_KHR);
	if (!export || !export(display, image, &fd, &stride, &offset) || fd < 0)
		DIE("the texture can't be exported: EGL error %#x", eglGetError());
	printf("egl: exported a texture: %ld bytes, stride %d\n", (long)lseek(fd, 0, SEEK_END), stride);
	close(fd);
}

int main(void)
{
	PFNEGLGETPLATFORMDISPLAYEXTPROC get =
		(PFNEGLGETPLATFORMDISPLAYEXTPROC)eglGetProcAddress("eglGetPlatformDisplayEXT");
	const EGLint version[] = { EGL_CONTEXT_CLIENT_VERSION, 2, EGL_NONE };
	int from = allocate(WORDS * 4), to = allocate(WORDS * 4);
	GLuint framebuffer, target, plain;
	EGLContext context;

	display = get(EGL_PLATFORM_SURFACELESS_MESA, EGL_DEFAULT_DISPLAY, NULL);
	NEED(eglInitialize(display, NULL, NULL));
	eglBindAPI(EGL_OPENGL_ES_API);
	context = eglCreateContext(display, EGL_NO_CONFIG_KHR, EGL_NO_CONTEXT, version);
	NEED(context != EGL_NO_CONTEXT);
	NEED(eglMakeCurrent(display, EGL_NO_SURFACE, EGL_NO_SURFACE, context));
	printf("egl: %s\n", (const char *)glGetString(GL_RENDERER));

	fill(from, WORDS);
	target = texture_of(import(to));
	glGenFramebuffers(1, &framebuffer);
	glBindFramebuffer(GL_FRAMEBUFFER, framebuffer);
	glFramebufferTexture2D(GL_FRAMEBUFFER, GL_COLOR_ATTACHMENT0, GL_TEXTURE_2D, target, 0);
	NEED(glCheckFramebufferStatus(GL_FRAMEBUFFER) == GL_FRAMEBUFFER_COMPLETE);
	draw_all_of(texture_of(import(from)));
	printf("egl: drawn from one buffer to another: %u of %d pixels differ\n",
	       differences(to, WORDS, pattern), WORDS);
	NEED(differences(to, WORDS, pattern) == 0);

	glGenTextures(1, &plain);
	glBindTexture(GL_TEXTURE_2D, plain);
	glTexImage2D(GL_TEXTURE_2D, 0, GL_RGBA, SIDE, SIDE, 0, GL_RGBA, GL_UNSIGNED_BYTE, NULL);
	export_of(plain);
	eglMakeCurrent(display, EGL_NO_SURFACE, EGL_NO_SURFACE, EGL_NO_CONTEXT);
	eglDestroyContext(display, context);
	eglTerminate(display);
	return 0;
}
